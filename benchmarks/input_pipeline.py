"""Masked tokens a second: lmjax's pipeline beside transformers' DataCollatorForLanguageModeling, on the same rows.

    .venv/bin/python benchmarks/input_pipeline.py [--batches 100]

Ours: rows of RoBERTa's full sentences [256, 128] shuffled, gathered from the store and masked (token by token, 15%, at
most 20).
Theirs: a DataLoader's collator over ready rows of random ids, which are already in memory and need no shuffling, 15%.
The two take turns; all cores are theirs.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lmjax.data.instances import Sentences, open_table
from lmjax.data.masking import MaskingConfig, mask_tokens
from lmjax.data.pipeline import Stream, batches
from lmjax.data.prepare import DataConfig, prepare
from lmjax.data.schedule import Schedule, Stage
from lmjax.data.sources import TextFiles
from lmjax.data.tokenizers import TokenizerConfig

ROWS, LENGTH = 256, 128
HERE = Path(__file__).parent


def stream(directory: Path) -> Stream:
    """Full rows of made-up text of about a million tokens."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("aeioubdklmnrst"), rng.integers(3, 8))) for _ in range(5000)]
    sentences = [" ".join(rng.choice(words, 5)) for _ in range(120_000)]
    documents = ["\n".join(sentences[i : i + 80]) for i in range(0, len(sentences), 80)]
    (directory / "text.txt").write_text("\n\n".join(documents))
    source = TextFiles((str(directory / "text.txt"),), documents="blank_line")
    rows = Sentences(LENGTH)
    store = prepare(DataConfig(str(directory / "store"), source, TokenizerConfig("roberta_bpe", 8000)), [rows], 0)
    tokenizer, cfg = store.tokenizer, MaskingConfig()
    table = open_table(rows, store, "train", 0)
    return Stream((table,), (1.0,), lambda f, keys: mask_tokens(f, keys, cfg, tokenizer.mask_id, tokenizer.vocab_size))


def ours(made: Stream, count: int) -> float:
    """Tokens a second over `count` batches, after one."""
    schedule = Schedule((Stage(count + 1, ROWS, LENGTH),))
    found = batches([made], schedule, 0, 0, count + 1)
    next(found)
    start = time.perf_counter()
    for _ in found:
        pass
    return count * ROWS * LENGTH / (time.perf_counter() - start)


def real_tokens(made: Stream) -> float:
    """The share of ours that is no padding; theirs are all real."""
    _, batch = next(batches([made], Schedule((Stage(1, ROWS, LENGTH),)), 0, 0, 1))
    return float(np.mean(batch["segment_ids"] > 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    peer = [str(HERE.parent / ".venv-parity/bin/python"), str(HERE / "peers/masking_torch.py"), str(arguments.batches)]
    with tempfile.TemporaryDirectory() as directory:
        made = stream(Path(directory))
        times = []
        for _ in range(arguments.pairs):
            theirs = subprocess.run(peer, capture_output=True, text=True)
            if theirs.returncode:
                sys.exit(theirs.stderr)
            times.append((ours(made, arguments.batches), float(theirs.stdout)))
    us, them = (statistics.median(side) for side in zip(*times, strict=True))
    found = {"lmjax_tokens_per_s": round(us), "collator_tokens_per_s": round(them), "ratio": round(us / them, 1)}
    print(json.dumps(found | {"real_tokens": round(real_tokens(made), 3)}))


if __name__ == "__main__":
    main()
