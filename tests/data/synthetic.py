"""A corpus of random tokens in memory, with nothing that an installed package's version could change."""

import random
from types import SimpleNamespace

import numpy as np

from lmjax.data.instances import InstanceConfig, Table
from lmjax.data.store import WORD_BEGINS, WORD_INSIDE, Split

PAD, UNK, CLS, SEP, MASK = range(5)
VOCAB = 200
TOKENIZER = SimpleNamespace(vocab_size=VOCAB, pad_id=PAD, unk_id=UNK, cls_id=CLS, sep_id=SEP, mask_id=MASK, eos_id=None)


def make_split(documents: int = 40, seed: int = 0) -> Split:
    """Documents of 1 to 12 sentences of 1 to 14 tokens."""
    rng = random.Random(seed)
    sizes = [[1 + int(14 * rng.random()) for _ in range(1 + int(12 * rng.random()))] for _ in range(documents)]
    lengths = [n for document in sizes for n in document]
    starts = np.cumsum([0, *lengths])
    tokens = np.array([5 + int((VOCAB - 5) * rng.random()) for _ in range(starts[-1])], np.uint16)
    flags = np.array([WORD_BEGINS if rng.random() < 0.7 else WORD_INSIDE for _ in tokens], np.uint8)
    flags[starts[:-1]] = WORD_BEGINS
    return Split(tokens, flags, starts, np.cumsum([0, *map(len, sizes)]))


def make_table(cfg: InstanceConfig, documents: int = 40, seed: int = 0) -> Table:
    split = make_split(documents, seed)
    tables = list(cfg.tables(split, TOKENIZER, seed))
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    return Table(cfg, split, TOKENIZER, columns, np.cumsum([len(next(iter(t.values()))) for t in tables]))
