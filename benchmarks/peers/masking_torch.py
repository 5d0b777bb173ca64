"""transformers' side of `input_pipeline.py`: prints tokens a second of DataCollatorForLanguageModeling."""

import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import BertTokenizerFast, DataCollatorForLanguageModeling

ROWS, LENGTH = 256, 128


def main() -> None:
    count = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as directory:
        vocabulary = Path(directory) / "vocab.txt"
        vocabulary.write_text(
            "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(7995))])
        )
        collator = DataCollatorForLanguageModeling(BertTokenizerFast(str(vocabulary)), mlm_probability=0.15)
    rows = torch.randint(5, 8000, (ROWS, LENGTH))
    rows[:, 0], rows[:, -1] = 2, 3
    examples = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows]
    collator(examples)
    start = time.perf_counter()
    for _ in range(count):
        collator(examples)
    print(count * ROWS * LENGTH / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
