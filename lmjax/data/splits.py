"""Files of labelled examples by their official names, and a held-out side where there is no file of one."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from etils import epath

from lmjax.errors import UserError

T = TypeVar("T")


def find_splits(
    data: str, names: Mapping[str, str], kinds: Sequence[str], folder: str, renamed: Mapping[str, str]
) -> dict[str, epath.Path]:
    """split -> its file, of those that are there.

    Args:
      names: split -> the file's name, with its ending or without.
      kinds: endings that may be left out of the names; each also as .gz.
      renamed: split -> a file's own name in that folder, instead.

    Raises:
      UserError: no folder, no file to train on, a file that was named and is not there, one file for two splits.
    """
    endings = ("", ".gz", *(f".{kind}{packed}" for kind in kinds for packed in ("", ".gz")))
    found = {}
    for split, stem in {**names, **renamed}.items():
        tried = [epath.Path(folder) / f"{stem}{ending}" for ending in endings]
        file = next((path for path in tried if path.is_file()), None)
        if file is not None:
            found[split] = file
        elif split in renamed or split == "train":
            listed = " or ".join([", ".join(f".{kind}" for kind in kinds[:-1]), f".{kinds[-1]}"][len(kinds) < 2 :])
            raise UserError(f"no {stem}{listed} (or .gz) in {folder}; task.folder says where {data} lies")
    if len(set(found.values())) < len(found):
        mend = "task.heldout '' and a task.heldout_share cut it in two"
        raise UserError(f"{folder}: one file for two of {', '.join(found)}; {mend}")
    return found


def hold_out(
    splits: Mapping[str, list[T]], share: float, limit: int, folder: str, group: Callable[[T], Any] | None = None
) -> dict[str, list[T]]:
    """A test split alone as it is. Else the splits with a "heldout" one: where they lack it, `share` of the training
    examples, whole groups of them.
    `limit`: so many training examples are kept (0 = all). The same examples whatever the run's seed.

    Raises:
      UserError: no held-out split, and a share that leaves one side empty.
    """
    if "train" not in splits:
        return dict(splits)
    splits, train = dict(splits), splits["train"]
    order = [int(i) for i in np.random.default_rng(0).permutation(len(train))]
    if "heldout" not in splits:
        groups = [group(example) for example in train] if group else list(range(len(train)))
        sizes, wanted, held = Counter(groups), max(round(share * len(train)), share > 0), set()
        for g in dict.fromkeys(groups[i] for i in order):
            if wanted <= 0:
                break
            held.add(g)
            wanted -= sizes[g]
        if not 0 < len(held) < len(sizes):
            there = f"no held-out file in {folder}"
            if share:
                counts = f"heldout_share {share:g} of {len(train)} examples in {len(sizes)} groups"
                raise UserError(f"{there}, and {counts} leaves one side empty; name a file by task.heldout")
            raise UserError(f"{there}: name it by task.heldout, or set task.heldout_share")
        splits["heldout"] = [train[i] for i in sorted(order) if groups[i] in held]
        order = [i for i in order if groups[i] not in held]
    splits["train"] = [train[i] for i in sorted(order[: limit or None])]
    return splits
