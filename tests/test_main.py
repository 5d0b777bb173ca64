"""The verbs, as a user types them: what they print, what they write, how they fail."""

import gzip
import io
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lmjax import commands
from lmjax.data.store import Store
from lmjax.errors import UserError
from tests.end_to_end import tiny
from tests.end_to_end.test_command import CONFIG
from tests.tiny_runs import SENTENCES, write_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for family in ("bert", "elmo", "gpt2", "marian"):
        write_run(family, folder / family)
    return folder


@pytest.fixture
def verb(capsys):
    """Runs a verb in this process and returns the lines that it printed."""

    def run(*arguments):
        commands.run([str(a) for a in arguments])
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out.splitlines()

    return run


def process(*arguments):
    command = [sys.executable, "-m", "lmjax", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_fill_mask(runs, verb, monkeypatch):
    monkeypatch.chdir(runs)  # a path as one types it
    text, *masks = verb("fill-mask", "bert", "The [MASK] ran to the [MASK].", "--top", 4)
    assert text == "The [MASK] ran to the [MASK]."
    assert len(masks) == 2
    fields = masks[0].split()
    assert len(fields) == 8
    assert 0 < sum(map(float, fields[1::2])) <= 1.002
    assert fields[1::2] == sorted(fields[1::2], reverse=True)


def test_embed(runs, verb, tmp_path):
    out = tmp_path / "v.npy"
    (line,) = verb(
        "embed", runs / "bert/best", "--text", "the dog", "--text", "a bank", "--layers", -1, 0, "--out", out
    )
    assert line == f"{out}: 4 vectors of 64, float32, from 2 texts"
    assert np.load(out).shape == (4, 64)


def test_embed_a_file_with_a_progress_bar(runs, tmp_path, capsys):
    (tmp_path / "text").write_text("the dog\n\na bank\nthe river\n")
    arguments = [runs / "gpt2", "--file", tmp_path / "text", "--pool", "mean", "--out", tmp_path / "v.h5"]
    commands.run(["embed", *map(str, arguments)])
    printed = capsys.readouterr()
    assert "3 vectors of 32, float32, from 3 texts" in printed.out
    assert "embed: 100%" in printed.err
    assert (tmp_path / "v.h5").exists()


def test_generate(runs, verb):
    arguments = ["generate", runs / "gpt2", "--prompt", "The dog", "--max-new-tokens", 8, "--top-k", 5, "--seed", 1]
    lines = verb(*arguments)
    assert lines[0].startswith("The dog")
    assert lines == verb(*arguments)
    two = "\n".join(verb(*arguments, "--prompt", "A river"))
    assert "The dog" in two
    assert "\n\nA river" in two
    assert verb("generate", runs / "gpt2", "--temperature", 0, "--max-new-tokens", 4)


def test_convert(runs, verb, tmp_path):
    (line,) = verb("convert", runs / "bert", tmp_path / "hf")
    assert line.startswith(f"{tmp_path / 'hf'}: Bert with ")
    assert line.endswith("parameters, heads mlm, nsp")
    text = "the [MASK] barked"
    assert verb("fill-mask", tmp_path / "hf", text) == verb("fill-mask", runs / "bert", text)
    (line,) = verb("convert", tmp_path / "hf", tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "hf/model.safetensors").read_bytes()


def test_verify(runs, verb, monkeypatch):
    monkeypatch.chdir(runs)
    lines = verb("verify", "bert")
    assert lines[0].split() == ["step", "2"]
    assert any(line.startswith("sha256") for line in lines)


def test_translate(runs, verb, tmp_path, monkeypatch):
    """A translation scored against itself has BLEU 100; the signature says by what rules."""
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(SENTENCES[:2])))
    printed = verb("translate", runs / "marian", "--beams", 2)
    assert len(printed) == 2
    texts, made = tmp_path / "texts.gz", tmp_path / "made"
    texts.write_bytes(gzip.compress("\n".join(SENTENCES[:2]).encode()))
    assert verb("translate", runs / "marian", "--input", texts, "--beams", 2, "--out", made) == []
    assert made.read_text().splitlines() == printed
    *_, score, signature = verb("translate", runs / "marian", "--input", texts, "--beams", 2, "--reference", made)
    assert score.startswith("BLEU = 100.00")
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_help_lists_the_verbs(verb):
    assert {line.split()[0] for line in verb()[2:]} == set(commands.VERBS)


def test_prepare_makes_the_store_of_a_config(tmp_path):
    tiny.write_text(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG.format(root=tmp_path))
    commands.run(["prepare", str(tmp_path / "config.py"), "--data.0.data.store", str(tmp_path / "store")])
    assert Store.open(str(tmp_path / "store")).tokenizer.vocab_size == 300
    with pytest.raises(UserError, match="no config file"):
        commands.run(["prepare", str(tmp_path / "none.py")])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["fil-mask"], "unknown verb 'fil-mask'; did you mean 'fill-mask'"),
        (["fill-mask", "bert-base-uncased", "the [MASK]"], "hf download bert-base-uncased --local-dir"),
        (["fill-mask", "RUN"], "no text"),
        (["embed", "RUN", "--out", "v.npy"], "give --text or --file"),
        (["embed", "RUN", "--file", "none", "--out", "v.npy"], "none is no readable UTF-8 text"),
        (["embed", "RUN", "--text", "dog", "--out", "v.csv"], r"\.npy or \.h5"),
        (["generate", "RUN", "--top-p", "2"], "top_p <= 1"),
        (["translate", "RUN", "--input", "none"], "none is no readable UTF-8 text"),
        (["translate", "RUN", "--out", "none/there"], "--out none/there: no directory none"),
        (["fill-mask", "RUN", "the [MASK]", "--top", "0"], "--top 0 must be at least 1"),
    ],
)
def test_complaints_are_one_line(arguments, complaint, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=complaint):
        commands.run(arguments)
    assert not list(tmp_path.iterdir())


def test_translations_need_as_many_references(tmp_path):
    for name, text in {"texts": "a\nb\n", "references": "a\n"}.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="2 lines to translate and 1 references; give one for each"):
        commands.run(["translate", "RUN", "--input", f"{tmp_path}/texts", "--reference", f"{tmp_path}/references"])


@pytest.fixture(scope="module")
def bare(runs, tmp_path_factory):
    """The same runs without their tokenizers, of whose lack a model of another kind must not speak."""
    return shutil.copytree(runs, tmp_path_factory.mktemp("bare") / "runs", ignore=shutil.ignore_patterns("tokenizer"))


GIVEN = {  # a verb's other arguments
    "fill-mask": ["The [MASK]"],
    "generate": ["--prompt", "The"],
    "translate": ["--input", str(Path(__file__))],
    "embed": ["--text", "dog", "--out", "v.npy"],
}


@pytest.mark.parametrize(
    ("verb", "family", "complaint"),
    [
        ("generate", "bert", "head clm, and this BertConfig has mlm, nsp; use fill-mask"),
        ("generate", "elmo", "head clm, and this ElmoConfig has bilm; use embed"),
        ("generate", "marian", "head clm, and this TransformerConfig has seq2seq; use translate"),
        ("fill-mask", "gpt2", "head mlm, and this GptConfig has clm; use generate"),
        ("fill-mask", "elmo", "head mlm, and this ElmoConfig has bilm; use embed"),
        ("translate", "bert", "head seq2seq, and this BertConfig has mlm, nsp; use fill-mask"),
        ("translate", "elmo", "head seq2seq, and this ElmoConfig has bilm; use embed"),
        ("embed", "marian", "this model translates; vectors are taken of models that read one text"),
    ],
)
def test_a_model_of_another_kind_is_one_line_and_exit_code_2(bare, verb, family, complaint, capsys):
    with pytest.raises(SystemExit) as end:
        commands.exit_codes(commands.run)([verb, str(bare / family), *GIVEN[verb]])
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (2, "")
    assert re.fullmatch(f"lmjax: {verb}[^\\n]* {complaint}\n", printed.err)


def test_a_whole_process_is_quiet_and_fails_with_one_line(runs, tmp_path):
    done = process("fill-mask", runs / "bert", "the [MASK]")
    assert (done.returncode, done.stderr) == (0, "")
    done = process("convert", runs / "bert", runs / "gpt2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"lmjax: {runs / 'gpt2'} exists already; choose another directory, or delete it\n"
    assert process("fill-mask").returncode == 2  # tyro's


def test_exit_codes(capsys, tmp_path):
    (tmp_path / "file").touch()

    @commands.exit_codes
    def interrupted():
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit) as end:
        interrupted()
    assert end.value.code == 130
    assert capsys.readouterr() == ("", "")
    with pytest.raises(SystemExit) as end:
        commands.exit_codes(lambda: (tmp_path / "file/run").mkdir(parents=True))()
    assert end.value.code == 2
    assert re.fullmatch(r"lmjax: .*file.*: Not a directory; choose another path\n", capsys.readouterr().err)


def test_import_is_quick_and_no_verb_needs_tensorflow(runs):
    code = f"""
import sys, lmjax, lmjax.commands
heavy = {{"jax", "numpy", "flax", "tensorflow", "orbax"}} & set(sys.modules)
lmjax.load({str(runs / "gpt2")!r}).generate("The dog", lmjax.generate.Sampling(4))
print(heavy, "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set() False\n"
    assert done.stderr == ""
