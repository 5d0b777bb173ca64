"""Sources give the same documents from any directory, and name file, place and mend of whatever is wrong."""

import gzip
import json
import time

import pytest

from lmjax.config import from_json, to_json
from lmjax.data import docs_source, sources
from lmjax.data.sources import (
    Annotated,
    Dialogues,
    Docs,
    ErnieRecords,
    Jsonl,
    ParallelText,
    SourceConfig,
    TextFiles,
    Tfds,
    fingerprint,
    texts,
)
from lmjax.errors import UserError


def write(path, data: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "b.txt", "β two\n".encode())
    write(tmp_path / "a.txt.gz", b"one\n")
    write(tmp_path / "deep" / "er" / "c.txt", b"three\n")
    return tmp_path


def test_globs(folder):
    found = list(texts(TextFiles((f"{folder}/*.txt*", f"{folder}/**/*.txt"))))  # b.txt matches twice
    assert found == [
        ("a.txt.gz", "a.txt.gz", "one\n"),
        ("b.txt", "b.txt", "β two\n"),
        ("deep/er/c.txt", "deep/er/c.txt", "three\n"),
    ]


def test_a_name_with_brackets_is_a_name(tmp_path):
    path = write(tmp_path / "novel [1].txt", b"text")
    assert list(texts(TextFiles((path,)))) == [("novel [1].txt", "novel [1].txt", "text")]


@pytest.mark.parametrize(
    ("documents", "pattern", "expected"),
    [
        ("file", "", ["= A =\none\n\n\ntwo\n= B =\nthree"]),
        ("blank_line", "", ["= A =\none\n", "two\n= B =\nthree"]),
        ("line", "", ["= A =\n", "one\n", "\n", "\n", "two\n", "= B =\n", "three"]),
        ("regex", "^= . =$", ["", "\none\n\n\ntwo\n", "\nthree"]),
        ("regex", "(?=^= . =$)", ["", "= A =\none\n\n\ntwo\n", "= B =\nthree"]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_documents_of_a_file(tmp_path, documents, pattern, expected, end):
    text = "\ufeff= A =\none\n\n\ntwo\n= B =\nthree".replace("\n", end)
    path = write(tmp_path / "x.txt", text.encode())
    found = list(texts(TextFiles((path,), documents=documents, pattern=pattern)))
    assert [text for _, _, text in found] == expected
    assert [id_ for id_, _, _ in found] == ["x.txt"] * (documents == "file") or [
        f"x.txt:{i + 1}" for i in range(len(found))
    ]
    assert all(id_ == group for id_, group, _ in found)


@pytest.mark.parametrize(("documents", "pattern"), [("regex", ""), ("line", "x")])
def test_a_pattern_is_for_regex_alone(documents, pattern):
    with pytest.raises(UserError, match=f"documents {documents} with pattern '{pattern}'"):
        TextFiles(("x",), documents=documents, pattern=pattern)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16", "gb18030"])
def test_encodings(tmp_path, encoding):
    text = "déjà vu\n" if encoding == "latin-1" else "déjà 北京\n"
    path = write(tmp_path / "x.txt.gz", text.encode(encoding))
    assert [found for _, _, found in texts(TextFiles((path,), encoding=encoding))] == [text]


def test_jsonl(tmp_path):
    rows = [{"text": "one\ntwo", "id": 7}, {"text": "北京 \u2028 \x85"}]
    path = write(tmp_path / "x.jsonl.gz", "\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows).encode())
    assert list(texts(Jsonl((path,)))) == [
        ("x.jsonl.gz:1", "x.jsonl.gz:1", "one\ntwo"),
        ("x.jsonl.gz:3",) * 2 + (rows[1]["text"],),
    ]


def message(source: SourceConfig) -> str:
    with pytest.raises(UserError) as caught:
        list(texts(source))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_files(folder):
    assert f"no file {folder}/none.txt" in message(TextFiles((f"{folder}/none.txt",)))
    assert f"no file {folder}/*.md" in message(TextFiles((f"{folder}/*.md",)))
    assert "no file /nowhere/**/*.txt" in message(Jsonl(("/nowhere/**/*.txt",)))
    assert f"it is a directory; write {folder}/*.txt" in message(TextFiles((str(folder),)))
    assert "write paths=('a.txt',)" in message(TextFiles("a.txt"))  # type: ignore[arg-type]


@pytest.mark.parametrize("before", [0, 5, 3 * sources.CHUNK - 1])
@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz"])
def test_invalid_utf_8_names_file_and_byte(tmp_path, before, name):
    data = b"x" * before + "é".encode() + b"\xff" + b"tail\n"
    path = write(tmp_path / name, data)
    assert f"{path}: not utf-8 at byte {before + 2} " in message(TextFiles((path,)))


def test_a_character_cut_off_at_the_end_of_the_file(tmp_path):
    path = write(tmp_path / "x.jsonl", b'{"text": "' + "é".encode()[:1])
    assert f"{path}: not utf-8 at byte 10 " in message(Jsonl((path,)))


def test_other_unreadable_files(tmp_path):
    (tmp_path / "plain.gz").write_bytes(b"not packed")
    (tmp_path / "torn.gz").write_bytes(gzip.compress(b"text" * 1000)[:-20])
    path = write(tmp_path / "x.txt", b"text")
    assert f"cannot read {tmp_path}/plain.gz" in message(TextFiles((f"{tmp_path}/plain.gz",)))
    assert f"cannot read {tmp_path}/torn.gz" in message(TextFiles((f"{tmp_path}/torn.gz",)))
    assert "unknown encoding 'uft-8'" in message(TextFiles((path,), encoding="uft-8"))
    assert "'(' is no regular expression" in message(TextFiles((path,), documents="regex", pattern="("))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"text": "a"', "not JSON (Expecting ',' delimiter, column 13)"),
        ('["a"]', "not a JSON object"),
        ('{"texts": "a"}', "no field 'text'; did you mean 'texts'?"),
        ('{"text": 3}', "field 'text' is int, not text"),
    ],
)
def test_bad_json_lines(tmp_path, line, complaint):
    path = write(tmp_path / "x.jsonl", f'{{"text": "fine"}}\n\n{line}\n'.encode())
    assert message(Jsonl((path,))) == f"{path}, line 3: {complaint}"


def test_a_source_that_is_none():
    assert "choose Docs, TextFiles, Jsonl, ParallelText, Annotated, Dialogues or Tfds" in message(SourceConfig())


@pytest.mark.parametrize(
    "source",
    [
        Docs(),
        TextFiles(("a", "b"), documents="line"),
        Jsonl(("a",), "body"),
        Annotated(("a",), 60),
        Dialogues(("a",)),
        ErnieRecords(("a",)),
        Tfds("lm1b"),
    ],
)
def test_configs_survive_json(source):
    assert from_json(SourceConfig, json.loads(json.dumps(to_json(source)))) == source


def test_fingerprint(tmp_path):
    here, there = (f"{tmp_path}/{name}/*.txt" for name in ("here", "there"))
    for name in ("here", "there"):
        write(tmp_path / name / "a.txt", b"one")
    first = fingerprint(TextFiles((here,)))
    assert fingerprint(TextFiles((there,))) == first  # wherever it lies
    assert fingerprint(TextFiles((here,), documents="line")) != first
    write(tmp_path / "there" / "a.txt", b"two")
    assert fingerprint(TextFiles((there,))) != first
    write(tmp_path / "there" / "a.txt", b"one")
    (tmp_path / "there" / "a.txt").rename(tmp_path / "there" / "b.txt")
    assert fingerprint(TextFiles((there,))) != first


def test_fingerprint_of_docs_follows_the_packages(monkeypatch):
    first = fingerprint(Docs())
    assert fingerprint(Docs()) == first
    monkeypatch.setattr(docs_source, "_REVISION", 0)
    assert fingerprint(Docs()) != first


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS data set of our own, prepared without network."""
    from lmjax.data.tf import tensorflow

    tf = tensorflow()
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_text",
        version="1.0.0",
        features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "n": tf.int64}),
        split_datasets={"train": tf.data.Dataset.from_tensor_slices({"text": ["one é", "two"], "n": [1, 2]})},
        data_dir=str(folder),
        disable_shuffling=True,
    )
    return str(folder)


def test_tfds(prepared):
    source = Tfds("tiny_text", data_dir=prepared)
    assert list(texts(source)) == [
        (f"tiny_text/1.0.0:train:{i}",) * 2 + (text,) for i, text in enumerate(("one é", "two"))
    ]
    assert fingerprint(source) != fingerprint(Tfds("tiny_text", field="n", data_dir=prepared))
    assert "no field 'txt'; did you mean 'text'?" in message(Tfds("tiny_text", field="txt", data_dir=prepared))
    assert "no split 'trian'; did you mean 'train'?" in message(Tfds("tiny_text", split="trian", data_dir=prepared))
    assert "row 0: 'n' is not text" in message(Tfds("tiny_text", field="n", data_dir=prepared))


def test_tfds_without_data_answers_at_once(tmp_path):
    start = time.monotonic()
    command = message(Tfds("lm1b", data_dir=str(tmp_path)))
    unknown = message(Tfds("lm1c", data_dir=str(tmp_path)))
    config = message(Tfds("wikipedia/no_such_config", data_dir=str(tmp_path)))
    assert time.monotonic() - start < 5
    assert f"tfds.builder('lm1b', data_dir='{tmp_path}').download_and_prepare()" in command
    assert "unknown TFDS data set 'lm1c'; did you mean 'lm1b'?" in unknown
    assert "wikipedia/no_such_config" in config


def test_parallel_text_pairs_the_lines(tmp_path):
    (tmp_path / "a.en").write_text("one\n\n two \nthree\n")
    (tmp_path / "a.de.gz").write_bytes(gzip.compress(b"eins\r\nleer\r\nzwei\r\n  \r\n"))
    source = ParallelText(str(tmp_path / "a.en"), str(tmp_path / "a.de.gz"))
    assert list(texts(source)) == [("a.en:1", "a.en:1", "one\neins"), ("a.en:3", "a.en:3", "two\nzwei")]
    before = fingerprint(source)
    (tmp_path / "a.en").write_text("One\n\n two \nthree\n")
    assert fingerprint(source) != before
    (tmp_path / "a.en").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"a\.en has 2 lines and .*a\.de\.gz 4; parallel files have as many"):
        list(texts(source))
    with pytest.raises(UserError, match="one file on either side"):
        list(texts(ParallelText(str(tmp_path / "a.*"), str(tmp_path / "a.en"))))
