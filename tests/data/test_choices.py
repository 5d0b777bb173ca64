"""Questions with several answers: SWAG's columns on made-up rows, CODAH and OpenBookQA on their own files."""

from pathlib import Path

import pytest
from etils import epath

from lmjax.data.choices import Choice, read_choices
from lmjax.errors import UserError

HEADER = ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3"


def test_swags_second_sentence_has_begun(tmp_path: Path) -> None:
    row = '0,v,1,"A dog, barks. It",A dog barks loudly.,It,gold,runs.,"sits, then lies.",flies.,reads.,1'
    rows = f"{HEADER},label\n{row}\n"
    (tmp_path / "val.csv").write_text(rows)
    endings = ("It runs.", "It sits, then lies.", "It flies.", "It reads.")
    found = read_choices(epath.Path(tmp_path / "val.csv"), "swag", True)
    assert found == [Choice("A dog barks loudly.", endings, 1)]
    (tmp_path / "test.csv").write_text(rows.replace(",label", "").replace(",1\n", "\n"))
    assert read_choices(epath.Path(tmp_path / "test.csv"), "swag", False) == [
        Choice("A dog barks loudly.", endings, None)
    ]


def test_bad_rows_are_one_line(tmp_path: Path) -> None:
    file = epath.Path(tmp_path / "train.tsv")
    for text, name, says in (
        ("o\tHe\ta\tb\tc\n", "codah", r"train.tsv, line 1: 5 columns, not 7"),
        ("o\tHe\ta\tb\tc\td\t4\n", "codah", r"train.tsv, line 1: label '4' is none of 0, 1, 2, 3"),
        ("o\tHe\ta\t\tc\td\t1\n", "codah", r"train.tsv, line 1: column 'ending1' is empty"),
        ("7\tWhat\t(A) a (B) b\tWhat (A) a (B) b\tA\n", "openbookqa", "train.tsv has no question with 4 choices"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=says):
            read_choices(file, name, True)
    file.write_text("ID\tQuestion Stem\tChoices\n7\tWhat\t(A) a (B) b (C) c (D) d\n8\tWhat\t(A) a (B) b\n")
    with pytest.raises(UserError, match=r"train\.tsv, question 2: 2 choices, not 4"):  # each is to be answered
        read_choices(file, "openbookqa", False)
    file.write_text("7\tWhat\t(A) a (B) b (C) c (D) d\tWhat\tC\n")
    assert read_choices(file, "openbookqa", False) == [Choice("What", ("a", "b", "c", "d"), 2)]
    with pytest.raises(UserError, match="unknown set of choices 'swagg'; did you mean"):
        read_choices(file, "swagg", True)


@pytest.mark.parametrize(
    ("file", "name", "count", "context", "ending", "label"),
    [
        ("codah/dev.tsv", "codah", 556, "The driver pulled up to a gas station. He", "found inner peace.", 1),
        ("codah/train.tsv", "codah", 1665, "The chicken cannot fly. It", "flies.", 2),
        ("openbookqa/dev.tsv", "openbookqa", 500, "Frilled sharks and angler fish live", "Deep sea animals", 0),
        ("openbookqa/train.tsv", "openbookqa", 4956, "The sun is responsible for", "puppies learning new tricks", 3),
    ],
)
def test_real_files(
    shared_data, capsys, file: str, name: str, count: int, context: str, ending: str, label: int
) -> None:
    found = read_choices(epath.Path(shared_data(file)), name, True)
    assert len(found) == count
    said = f"{shared_data(file)}: 1 of 4957 rows left out: not 4 choices\n"  # it has two (D)
    assert capsys.readouterr().out == (said if count == 4956 else "")
    assert found[0].context.startswith(context)
    assert (found[0].endings[0], found[0].label) == (ending, label)
