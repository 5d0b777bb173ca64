"""Greedy text of a random GPT-2 by transformers, for prompts of different lengths: IN.npz OUT.npz FOLDER.

Runs among the peers (.venv-parity). IN holds `seed`; the model is saved in FOLDER; OUT holds `tokens` and `mask`
(padded on the left) and `new`, the tokens that follow.
"""

import sys

import numpy as np
import torch
import transformers

seed, (out, folder) = int(np.load(sys.argv[1])["seed"]), sys.argv[2:]
torch.manual_seed(seed)
shape = {"vocab_size": 200, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=None, eos_token_id=None)).eval()
model.save_pretrained(folder)
tokens = torch.randint(0, 200, (4, 17))
mask = (torch.arange(17)[None] >= torch.tensor([0, 5, 11, 16])[:, None]).long()
with torch.no_grad():
    text = model.generate(tokens, attention_mask=mask, do_sample=False, max_new_tokens=20, pad_token_id=0)
np.savez(out, tokens=tokens.numpy(), mask=mask.numpy(), new=text[:, 17:].numpy())
