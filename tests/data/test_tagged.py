"""Columns of words and tags, and IOB1 as IOB2."""

from collections import Counter
from pathlib import Path

import pytest
from etils import epath

from lmjax.data.tagged import Sentence, iob2, read_sentences
from lmjax.errors import UserError

ROWS = """-DOCSTART- -X- O O

West NNP I-NP I-LOC
Bank NNP I-NP I-LOC
Israel NNP I-NP B-LOC

runs VB I-VP O

-DOCSTART- -X- O O

Rome NNP I-NP I-LOC
"""


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("I-PER I-PER O I-PER", "B-PER I-PER O B-PER"),
        ("I-PER B-PER I-PER", "B-PER B-PER I-PER"),
        ("I-PER I-LOC B-LOC", "B-PER B-LOC B-LOC"),
        ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC"),
    ],
)
def test_iob1_becomes_iob2(tags: str, wanted: str) -> None:
    assert iob2(tags.split()) == wanted.split()


def test_sentences_and_documents(tmp_path: Path) -> None:
    (tmp_path / "eng.train").write_text(ROWS)
    assert read_sentences(epath.Path(tmp_path / "eng.train"), "conll2003") == [
        Sentence(("West", "Bank", "Israel"), ("B-LOC", "I-LOC", "B-LOC"), 1),
        Sentence(("runs",), ("O",), 1),
        Sentence(("Rome",), ("B-LOC",), 2),
    ]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("West NNP I-LOC\n", "line 1: 3 columns, not 4"),
        ("a b c O\n\nWest NNP I-NP I-GPE\n", "line 3: tag 'I-GPE' is none of O, B-PER"),
        (" NNP I-NP O\n", "line 1: the word is empty"),
        ("-DOCSTART- -X- O O\n\n", "train has no sentence"),
    ],
)
def test_bad_lines_are_one_line(tmp_path: Path, rows: str, says: str) -> None:
    (tmp_path / "eng.train").write_text(rows)
    with pytest.raises(UserError, match=says):
        read_sentences(epath.Path(tmp_path / "eng.train"), "conll2003")
    with pytest.raises(UserError, match="unknown set of tagged sentences 'conll'"):
        read_sentences(epath.Path(tmp_path / "eng.train"), "conll")


@pytest.mark.parametrize(
    ("file", "name", "sentences", "documents", "entities"),
    [
        # As the shared task counts them (Tjong Kim Sang and De Meulder 2003, tables 1 and 2).
        ("conll2003/eng.train", "conll2003", 14041, 946, {"LOC": 7140, "MISC": 3438, "ORG": 6321, "PER": 6600}),
        ("conll2003/eng.testa", "conll2003", 3250, 216, {"LOC": 1837, "MISC": 922, "ORG": 1341, "PER": 1842}),
        ("msra_ner/dev.txt.gz", "msra_ner", 3000, 1, {"LOC": 1088, "ORG": 769, "PER": 970}),
    ],
)
def test_real_files(shared_data, file: str, name: str, sentences: int, documents: int, entities: dict) -> None:
    found = read_sentences(epath.Path(shared_data(file)), name)
    assert len(found) == sentences
    assert len({sentence.document for sentence in found}) == documents
    assert Counter(tag[2:] for sentence in found for tag in sentence.tags if tag.startswith("B-")) == entities
