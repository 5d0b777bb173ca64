"""The readers of labelled texts: official headers, files as they lie about, what is wrong with a file in one line."""

import gzip
from pathlib import Path

import pytest
from etils import epath

from lmjax.data.labelled import KINDS, SETS, Example, labelled_set, read_file, read_tfds
from lmjax.data.splits import find_splits
from lmjax.errors import UserError

# A line of each set's training file, with the official header (none: the file has none), and what is read.
ROWS = {
    "cola": (None, "gj04\t1\t\tIt is \"here\".", ("It is \"here\".",), 1),
    "sst2": ("sentence\tlabel", "a fine film \t1", ("a fine film",), 1),
    "mrpc": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", '0\t1\t2\tHe said "no.\tYes.', ('He said "no.', "Yes."), 0),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tnews\tf\t2012\t1\tnone\tnone\tA plane.\tA bird.\t3.800", ("A plane.", "A bird."), 3.8,
    ),
    "qqp": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "0\t1\t2\tWhy?\tHow?\t1", ("Why?", "How?"), 1),
    "mnli": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
        "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\t31193\t31193n\tgovernment\t( a )\t( b )\t(ROOT a)\t(ROOT b)\tIt rains.\tIt is wet.\tneutral\tneutral",
        ("It rains.", "It is wet."), 2,
    ),
    "qnli": ("index\tquestion\tsentence\tlabel", "0\tWho?\tHe did.\tnot_entailment", ("Who?", "He did."), 1),
    "rte": ("index\tsentence1\tsentence2\tlabel", "0\tIt rains.\tWet.\tentailment", ("It rains.", "Wet."), 0),
    "wnli": ("index\tsentence1\tsentence2\tlabel", "0\tIt rains.\tIt is wet.\t1", ("It rains.", "It is wet."), 1),
    "lcqmc": ("text_a\ttext_b\tlabel", "谁\t什么\t0", ("谁", "什么"), 0),
    "chnsenticorp": ("label\ttext_a", "1\t不错", ("不错",), 1),
}  # fmt: skip
REAL = {  # what the notes of the shared data say: rows to train on (one hotel review is empty), held-out rows
    "cola": ("glue/CoLA", 8551, 527), "sst2": ("glue/SST-2", 60614, 872), "mrpc": ("glue/MRPC", 3668, 408),
    "stsb": ("glue/STS-B", 5749, 1500), "qqp": ("glue/QQP", 16000, 2000), "rte": ("glue/RTE", 2144, 139),
    "wnli": ("glue/WNLI", 565, 70), "chnsenticorp": ("chnsenticorp_htl", 5437, 776),
}  # fmt: skip


def written(path: Path, text: str) -> epath.Path:
    path.write_text(text)
    return epath.Path(path)


def complaint(file: epath.Path, name: str) -> str:
    with pytest.raises(UserError) as error:
        read_file(file, name, needs_labels=True)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{file}, ")


@pytest.mark.parametrize("name", SETS)
def test_a_line_below_the_official_header(name: str, tmp_path: Path) -> None:
    header, line, texts, label = ROWS[name]
    text = f"{header}\n{line}\n" if header else f"{line}\n"
    file = written(tmp_path / "train.tsv", "\ufeff" + text.replace("\n", "\r\n"))
    assert read_file(file, name, needs_labels=True) == [Example(texts, label)]
    with gzip.open(tmp_path / "train.tsv.gz", "wt") as packed:
        packed.write(text)
    assert read_file(epath.Path(tmp_path / "train.tsv.gz"), name, needs_labels=True) == [Example(texts, label)]


def test_the_mismatched_side_has_more_columns(tmp_path: Path) -> None:
    """MNLI's dev files carry five single labels before the gold one."""
    header, line, texts, _ = ROWS["mnli"]
    more = "\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label"
    header = (header or "").replace("\tgold_label", more)
    file = written(tmp_path / "dev_matched.tsv", f"{header}\n{line}\tneutral\tneutral\tneutral\tentailment\n")
    assert read_file(file, "mnli", needs_labels=True) == [Example(texts, 1)]


def test_labels_of_test_files_are_read_where_they_are(tmp_path: Path) -> None:
    for name, text, found in (
        ("cola", "index\tsentence\n0\tBill is here.\n", Example(("Bill is here.",), None)),
        ("cola", "0\tBill is here.\n", Example(("Bill is here.",), None)),
        ("cola", "gj04\t1\t\tBill is here.\n", Example(("Bill is here.",), 1)),
        ("lcqmc", "text_a\ttext_b\tlabel\n谁\t什么\t1\n", Example(("谁", "什么"), 1)),
        ("lcqmc", "谁\t什么\t1\n", Example(("谁", "什么"), 1)),
    ):
        assert read_file(written(tmp_path / "test.tsv", text), name, needs_labels=False) == [found]
    bad = written(tmp_path / "test.tsv", "谁\t什么\t2\n")
    with pytest.raises(UserError, match="line 1: label '2' is none of 0, 1"):
        read_file(bad, "lcqmc", needs_labels=False)
    (tmp_path / "train.tsv").touch()
    assert list(find_splits("cola", labelled_set("cola").files, KINDS, str(tmp_path), {})) == ["train", "test"]


def test_without_a_header_columns_stand_in_their_order(tmp_path: Path) -> None:
    file = written(tmp_path / "train.tsv", '0\t1\t2\t"Why?\tHow?\t1\n')
    assert read_file(file, "qqp", needs_labels=True) == [Example(('"Why?', "How?"), 1)]


def test_commas_and_quotes_of_a_csv(tmp_path: Path) -> None:
    file = written(tmp_path / "train.csv", 'label,review\n1,"不错，""很好"", 真的"\n')
    assert read_file(file, "chnsenticorp", needs_labels=True) == [Example(('不错，"很好", 真的',), 1)]


@pytest.mark.parametrize("cell", ['"never closed', '"closed" amid a cell'])
def test_a_quote_that_would_swallow_other_rows_is_refused(cell: str, tmp_path: Path) -> None:
    file = written(tmp_path / "train.csv", f'label,review\n1,"of two\nlines"\n0,{cell}\n1,b\n0,c\n')
    assert complaint(file, "chnsenticorp").startswith("line 4: a quote does not end with its cell")


def test_what_is_wrong_with_a_line(tmp_path: Path) -> None:
    head = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n"
    bad = {
        "1\ta\tb": "line 3: 3 columns, not 4 (index, sentence1, sentence2, label)",
        "1\ta\tb\tmaybe": "line 3: label 'maybe' is none of entailment, not_entailment",
        "1\ta\t \tentailment": "line 3: column 'sentence2' is empty",
    }
    for number, (line, said) in enumerate(bad.items()):
        assert complaint(written(tmp_path / f"{number}.tsv", f"{head}{line}\n"), "rte") == said
    (header, line, *_) = ROWS["stsb"]
    scores = {"six": "label 'six' is no number", "5.2": "label 5.2 does not lie in 0 to 5"}
    for score, said in scores.items():
        file = written(tmp_path / "s.tsv", f"{header}\n{line.replace('3.800', score)}\n")
        assert complaint(file, "stsb") == f"line 2: {said}"


def test_broken_rows_of_qqp_are_counted_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, line, texts, label = ROWS["qqp"]
    file = written(tmp_path / "train.tsv", f"{header}\n{line}\n1\t3\t4\tWhy?\n2\t5\t6\tWhy?\t\t0\n")
    assert read_file(file, "qqp", needs_labels=True) == [Example(texts, label)]
    assert "2 of 3 rows left out" in capsys.readouterr().out


def test_each_row_without_a_label_is_predicted(tmp_path: Path) -> None:
    """Or else all that follow would have the wrong number."""
    text = "id\tquestion1\tquestion2\n0\tWhy?\t\n1\tWhy?\tHow?\n"
    file = written(tmp_path / "test.tsv", text)
    found = [Example(("Why?", ""), None), Example(("Why?", "How?"), None)]
    assert read_file(file, "qqp", needs_labels=False) == found
    file = written(tmp_path / "test.tsv", f"{text}2\tWhy?\n")
    with pytest.raises(UserError, match="line 4: 2 columns, not 3"):
        read_file(file, "qqp", needs_labels=False)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no train.tsv, .txt or .csv .* task.folder"):
        find_splits("rte", labelled_set("rte").files, KINDS, str(tmp_path), {})
    (tmp_path / "train.txt").touch()
    with pytest.raises(UserError, match="no mine"):
        find_splits("rte", labelled_set("rte").files, KINDS, str(tmp_path), {"heldout": "mine.tsv"})
    with pytest.raises(UserError, match="unknown set of labelled texts 'mprc'; did you mean 'mrpc'"):
        labelled_set("mprc")


def test_tfds_has_other_columns_and_other_orders(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels as glue/mnli's builder has them: entailment, neutral, contradiction, and -1 in tests; rows as they are
    stored, shuffled."""

    def rows(builder: str, split: str) -> list[dict]:
        label = -1 if split.startswith("test") else 0
        a, b = ("premise", "hypothesis") if builder == "glue/mnli" else ("question1", "question2")
        texts = {2: split, 0: "雨 ", 1: missing}
        return [{a: f"{i}".encode(), b: text.encode(), "label": label, "idx": i} for i, text in texts.items()]

    monkeypatch.setattr("lmjax.data.labelled.prepared", lambda name, data_dir: name)
    monkeypatch.setattr("lmjax.data.labelled.rows_of", rows)
    missing = "雪"
    found = dict(read_tfds("mnli", ""))
    pairs = [("0", "雨"), ("1", "雪"), ("2", "validation_mismatched")]
    assert found["mismatched"] == [Example(texts, 1) for texts in pairs]
    assert found["test"] == [Example(texts, None) for texts in (*pairs[:2], ("2", "test_matched"))]
    missing = " "
    with pytest.raises(UserError, match="glue/mnli train, row 1: column 'sentence2' is empty"):
        dict(read_tfds("mnli", ""))
    found = dict(read_tfds("qqp", ""))
    assert [len(found[split]) for split in ("train", "heldout", "test")] == [2, 2, 3]
    assert "glue/qqp train: 1 of 3 rows left out" in capsys.readouterr().out
    with pytest.raises(UserError, match="TensorFlow Datasets has no lcqmc"):
        dict(read_tfds("lcqmc", ""))


@pytest.mark.parametrize("name", REAL)
def test_real_files(name: str, shared_data) -> None:
    folder, train, heldout = REAL[name]
    files = find_splits(name, labelled_set(name).files, KINDS, str(shared_data(folder)), {})
    assert [len(read_file(files[split], name, needs_labels=True)) for split in ("train", "heldout")] == [train, heldout]
