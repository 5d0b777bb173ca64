"""Files of the splits by their names, and a side that is held out."""

from pathlib import Path

import pytest

from lmjax.data.splits import find_splits, hold_out
from lmjax.errors import UserError

NAMES = {"train": "train", "heldout": "dev", "test": "test"}


def test_files_are_found_by_their_official_name_or_another(tmp_path: Path) -> None:
    for name in ("train.json.gz", "mine.json", "test"):
        (tmp_path / name).write_text("")
    found = find_splits("squad1", NAMES, ("json",), str(tmp_path), {"heldout": "mine"})
    assert {split: file.name for split, file in found.items()} == {
        "train": "train.json.gz",
        "heldout": "mine.json",
        "test": "test",
    }
    with pytest.raises(UserError, match=r"no yours\.csv or \.json \(or \.gz\) in .*; task\.folder says where squad1"):
        find_splits("squad1", NAMES, ("csv", "json"), str(tmp_path), {"heldout": "yours"})
    with pytest.raises(UserError, match=r"one file for two of train, heldout, test; task\.heldout '' and a task"):
        find_splits("squad1", NAMES, ("json",), str(tmp_path), {"heldout": "train"})


def test_whole_groups_are_held_out_and_so_many_kept() -> None:
    train = [(group, i) for group in range(10) for i in range(group + 1)]
    splits = hold_out({"train": train}, 0.2, 0, "folder", lambda example: example[0])
    assert sorted(splits["train"] + splits["heldout"]) == train
    assert not {g for g, _ in splits["train"]} & {g for g, _ in splits["heldout"]}
    assert 11 <= len(splits["heldout"]) <= 20
    assert hold_out({"train": train}, 0.2, 0, "folder", lambda example: example[0]) == splits
    few = hold_out({"train": train, "heldout": train[:1]}, 0.0, 7, "folder")
    assert (len(few["train"]), few["heldout"]) == (7, train[:1])
    assert few["train"] == sorted(few["train"])
    assert len(hold_out({"train": train[:4]}, 0.1, 0, "folder")["heldout"]) == 1
    with pytest.raises(UserError, match=r"no held-out file in folder.* task\.heldout_share"):
        hold_out({"train": train}, 0.0, 0, "folder")
    with pytest.raises(UserError, match=r"heldout_share 0\.5 of 1 examples in 1 groups leaves one side empty"):
        hold_out({"train": train[:1]}, 0.5, 0, "folder")
