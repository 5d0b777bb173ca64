"""How transformers' fast tokenizers cut contexts into windows: IN.npz OUT.npz FOLDER LENGTH STRIDE.

Runs among the peers (.venv-parity). IN holds `questions` and `contexts`; windows are STRIDE tokens apart. OUT: ids and
types [windows, LENGTH], offsets [windows, LENGTH, 2] (0 but in the context), and the question of each window.
"""

import sys

import numpy as np
import transformers

source, out, folder, length, stride = sys.argv[1:]
length, stride = int(length), int(stride)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
found: dict[str, list] = {"ids": [], "types": [], "offsets": [], "question": []}
with np.load(source) as arrays:
    pairs = zip(arrays["questions"].tolist(), arrays["contexts"].tolist(), strict=True)
for number, (question, context) in enumerate(pairs):
    taken = len(tokenizer(question, add_special_tokens=False)["input_ids"])
    room = length - taken - tokenizer.num_special_tokens_to_add(pair=True)
    rows = tokenizer(
        question, context, truncation="only_second", max_length=length, stride=room - stride, padding="max_length",
        return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=True,
    )  # fmt: skip
    for row in range(len(rows["input_ids"])):
        of_context = [s == 1 for s in rows.sequence_ids(row)]
        found["ids"].append(rows["input_ids"][row])
        found["types"].append(rows["token_type_ids"][row])
        found["offsets"].append(np.array(rows["offset_mapping"][row]) * np.array(of_context)[:, None])
        found["question"].append(number)
np.savez(out, **{name: np.array(values) for name, values in found.items()})
