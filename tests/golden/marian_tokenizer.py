"""Texts by transformers' MarianTokenizer: IN.npz OUT.npz FOLDER.

Runs among the peers (.venv-parity). IN holds `texts`; OUT holds JSON lists: `sources` and `targets`, the ids of each
text in either language without the end token, and `decoded`, the texts of the latter.
"""

import json
import sys
import warnings

import numpy as np
import transformers

warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
given, (out, folder) = np.load(sys.argv[1]), sys.argv[2:]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
assert "Marian" in type(tokenizer).__name__
texts = given["texts"].tolist()
sources = [tokenizer(text)["input_ids"][:-1] for text in texts]
targets = [tokenizer(text_target=text)["input_ids"][:-1] for text in texts]
decoded = [tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in targets]
np.savez(out, sources=json.dumps(sources), targets=json.dumps(targets), decoded=json.dumps(decoded))
