"""Labelled texts and pairs of texts: the files of GLUE and of two Chinese sets as they are distributed, or TFDS's.

Each set is a record. Files are tab-separated, whatever quotes stand in them, or (.csv) comma-separated with quotes;
plain or .gz, with a byte order mark or without. A first line that names the wanted columns is a header, and columns are
found by name; without one they stand in the record's order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from etils import epath

from lmjax.data.files import csv_rows, read_lines
from lmjax.data.tf_datasets import prepared, rows_of
from lmjax.errors import UserError, did_you_mean

PLAIN = {"train": "train", "heldout": "dev", "test": "test"}
KINDS = ("tsv", "txt", "csv")


@dataclass(frozen=True)
class LabelledSet:
    """What a set of labelled texts is.

    Attributes:
      columns: names, in the order of files without a header.
      texts, label: the columns that are read; several names of one column are separated by "|".
      labels: the official strings, in the order of their ids; none: a number is to be predicted.
      metrics: the names of its metrics (`lmjax.metrics`), the first of which decides.
      submission: split -> the name of GLUE's file of predictions.
      files: split -> the file's name without its ending.
      test_columns: those of test files without labels, where these lack a header.
      low, high: of a number.
      symmetric: whether the two texts might change places.
      lenient: rows with a wrong number of columns, or without a text, are counted and left out where there are labels.
        Elsewhere, where each row is asked for, a text may be empty.
      tfds: the name in TensorFlow Datasets, and there the columns of the texts and the label.
    """

    columns: tuple[str, ...]
    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    submission: Mapping[str, str]
    files: Mapping[str, str]
    test_columns: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    symmetric: bool = False
    lenient: bool = False
    tfds: str = ""
    tfds_texts: tuple[str, ...] = ()
    tfds_splits: tuple[tuple[str, str], ...] = (("train", "train"), ("heldout", "validation"), ("test", "test"))


class Example(NamedTuple):
    """`label` is an id, a number, or None where the split has none."""

    texts: tuple[str, ...]
    label: float | None


PAIR = ("sentence1", "sentence2")
MNLI_COLUMNS = (
    "index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse",
    "sentence2_parse", "sentence1", "sentence2", "label1", "gold_label",
)  # fmt: skip


def _glue(name: str, texts: tuple[str, ...], labels: tuple[str, ...], metrics: tuple[str, ...], **more) -> LabelledSet:
    more = {"columns": ("index", *texts, "label"), "label": "label", "files": PLAIN, **more}
    more = {"submission": {"heldout": name, "test": name}, "tfds_texts": more.get("texts", texts), **more}
    return LabelledSet(texts=texts, labels=labels, metrics=metrics, **more)


SETS: dict[str, LabelledSet] = {
    "cola": _glue(
        "CoLA", ("sentence",), ("0", "1"), ("matthews",), columns=("source", "label", "mark", "sentence"),
        test_columns=("index", "sentence"), tfds="glue/cola",
    ),
    "sst2": _glue("SST-2", ("sentence",), ("0", "1"), ("accuracy",), columns=("sentence", "label"), tfds="glue/sst2"),
    "mrpc": _glue(
        "MRPC", ("#1 String", "#2 String"), ("0", "1"), ("f1", "accuracy"), label="Quality", symmetric=True,
        columns=("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"), tfds="glue/mrpc", tfds_texts=PAIR,
    ),
    "stsb": _glue(
        "STS-B", PAIR, (), ("spearman", "pearson"), label="score", high=5.0, symmetric=True, tfds="glue/stsb",
        columns=("index", "genre", "filename", "year", "old_index", "source1", "source2", *PAIR, "score"),
    ),
    "qqp": _glue(
        "QQP", ("question1", "question2"), ("0", "1"), ("f1", "accuracy"), label="is_duplicate", symmetric=True,
        columns=("id", "qid1", "qid2", "question1", "question2", "is_duplicate"), lenient=True, tfds="glue/qqp",
        test_columns=("id", "question1", "question2"),
    ),
    "mnli": _glue(
        "MNLI-m", PAIR, ("contradiction", "entailment", "neutral"), ("accuracy",), columns=MNLI_COLUMNS,
        label="gold_label",
        files={
            "train": "train", "heldout": "dev_matched", "mismatched": "dev_mismatched", "test": "test_matched",
            "test_mismatched": "test_mismatched",
        },
        submission={"heldout": "MNLI-m", "mismatched": "MNLI-mm", "test": "MNLI-m", "test_mismatched": "MNLI-mm"},
        tfds="glue/mnli", tfds_texts=("premise", "hypothesis"),
        tfds_splits=(
            ("train", "train"), ("heldout", "validation_matched"), ("mismatched", "validation_mismatched"),
            ("test", "test_matched"), ("test_mismatched", "test_mismatched"),
        ),
    ),
    "qnli": _glue(
        "QNLI", ("question", "sentence"), ("entailment", "not_entailment"), ("accuracy",), tfds="glue/qnli",
    ),
    "rte": _glue("RTE", PAIR, ("entailment", "not_entailment"), ("accuracy",), tfds="glue/rte"),
    "wnli": _glue("WNLI", PAIR, ("0", "1"), ("accuracy",), tfds="glue/wnli"),
    "lcqmc": _glue(
        "LCQMC", ("text_a", "text_b"), ("0", "1"), ("accuracy", "f1"), columns=("text_a", "text_b", "label"),
        symmetric=True,
    ),
    "chnsenticorp": _glue(
        "ChnSentiCorp", ("text_a|review",), ("0", "1"), ("accuracy",), lenient=True,
        columns=("label", "text_a"),
    ),
}  # fmt: skip
# TFDS's ids are in this order, where it is not the record's.
TFDS_LABELS = {"mnli": ("entailment", "neutral", "contradiction")}


def labelled_set(name: str) -> LabelledSet:
    """Raises UserError on an unknown name."""
    if name not in SETS:
        raise UserError(f"unknown set of labelled texts '{name}'{did_you_mean(name, SETS)}")
    return SETS[name]


def read_file(file: epath.Path, name: str, needs_labels: bool) -> list[Example]:
    """The examples of one file of a set. Raises UserError as `read_examples` does."""
    return read_examples(file, labelled_set(name), needs_labels)


def read_examples(file: epath.Path, task: LabelledSet, needs_labels: bool) -> list[Example]:
    """The examples of one file, with labels where it has their column.

    Raises:
      UserError: a line with another number of columns, an unknown label, an empty text; with file and line.
    """
    rows = list(_rows(file))
    first: Sequence[str] = rows[0][1] if rows else ()
    header = _find(first, task.texts) is not None
    plain = task.test_columns if not needs_labels and len(first) == len(task.test_columns) else task.columns
    columns = first if header else plain
    texts_at, label_at = _find(columns, task.texts), _find(columns, (task.label,))
    if texts_at is None or (needs_labels and label_at is None):
        raise UserError(f"{file}: the header {', '.join(columns)} lacks {', '.join((*task.texts, task.label))}")
    found: list[Example | None] = []
    for number, row in rows[header:]:
        where = f"{file}, line {number}"
        whole = len(row) == len(columns)
        if not whole and not (task.lenient and label_at):
            raise UserError(f"{where}: {len(row)} columns, not {len(columns)} ({', '.join(columns)})")
        texts = tuple(row[i].strip() for i in texts_at) if whole else ()
        usable = whole and _usable(texts, task, bool(label_at), where)
        label = _label(row[label_at[0]], task, where) if usable and label_at else None
        found.append(Example(texts, label) if usable else None)
    return _kept(found, str(file))


def read_tfds(name: str, data_dir: str) -> Iterator[tuple[str, list[Example]]]:
    """The splits of the set as TensorFlow Datasets has it, in the official files' order. Raises UserError where it is
    not prepared, and as `read_examples` does."""
    task = labelled_set(name)
    if not task.tfds:
        raise UserError(f"TensorFlow Datasets has no {name}; set task.source to files")
    builder = prepared(task.tfds, data_dir)
    order = TFDS_LABELS.get(name, task.labels)
    for split, theirs in task.tfds_splits:
        rows, where = sorted(rows_of(builder, theirs), key=lambda row: row["idx"]), f"{task.tfds} {theirs}"
        yield split, _kept([_from_tfds(row, task, order, f"{where}, row {row['idx']}") for row in rows], where)


def _from_tfds(row: Mapping[str, Any], task: LabelledSet, order: Sequence[str], where: str) -> Example | None:
    texts = tuple(row[column].decode("utf-8").strip() for column in task.tfds_texts)
    label = float(row["label"])
    if not _usable(texts, task, label >= 0, where):
        return None
    if label < 0:  # a test split
        return Example(texts, None)
    return Example(texts, _label(order[int(label)], task, where) if task.labels else label)


def _usable(texts: tuple[str, ...], task: LabelledSet, labelled: bool, where: str) -> bool:
    """Whether a row is not to be left out. Raises UserError for an empty text, unless the set has such."""
    if "" in texts and not task.lenient:
        raise UserError(f"{where}: column '{task.texts[texts.index('')]}' is empty")
    return all(texts) or not labelled


def _kept(found: Sequence[Example | None], where: str) -> list[Example]:
    """Those that are not left out, which are counted on the screen."""
    kept = [example for example in found if example]
    if len(kept) < len(found):
        left_out = f"{len(found) - len(kept)} of {len(found)} rows left out"
        print(f"{where}: {left_out}: a text or a column is missing", flush=True)
    return kept


def _rows(file: epath.Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells), without blank lines."""
    if ".csv" in file.suffixes:
        yield from csv_rows(file)
        return
    lines = enumerate(read_lines(file, "utf-8"), 1)
    yield from ((number, line.rstrip("\n").split("\t")) for number, line in lines if line.strip())


def _find(columns: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Where the wanted columns stand, or None unless all are there."""
    found = [next((i for i, c in enumerate(columns) if c in names.split("|")), None) for names in wanted]
    there = [place for place in found if place is not None]
    return there if len(there) == len(wanted) else None


def _label(cell: str, task: LabelledSet, where: str) -> float:
    cell = cell.strip()
    if task.labels:
        if cell not in task.labels:
            raise UserError(f"{where}: label '{cell}' is none of {', '.join(task.labels)}")
        return task.labels.index(cell)
    try:
        value = float(cell)
    except ValueError:
        raise UserError(f"{where}: label '{cell}' is no number") from None
    if not task.low <= value <= task.high:
        raise UserError(f"{where}: label {cell} does not lie in {task.low:g} to {task.high:g}")
    return value
