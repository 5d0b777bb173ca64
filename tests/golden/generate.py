"""Text of a random GPT-2 by transformers: greedy, and what it would be drawn from: IN.npz OUT.npz FOLDER.

Runs among the peers (.venv-parity). IN holds `seed`, and `sampling` [N, 3], temperatures, top-k and top-p; the model
is saved in FOLDER. OUT holds `tokens` and `mask` (prompts of different lengths, padded on the left), `new`, the tokens
that follow, and `probabilities` [N, rows, V] of the first one by transformers' warpers.
"""

import sys

import numpy as np
import torch
import transformers

with np.load(sys.argv[1]) as given:
    seed, sampling = int(given["seed"]), given["sampling"].tolist()
out, folder = sys.argv[2:]
torch.manual_seed(seed)
shape = {"vocab_size": 200, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=None, eos_token_id=None)).eval()
model.save_pretrained(folder)
tokens = torch.randint(0, 200, (4, 17))
mask = (torch.arange(17)[None] >= torch.tensor([0, 5, 11, 16])[:, None]).long()
with torch.no_grad():
    text = model.generate(tokens, attention_mask=mask, do_sample=False, max_new_tokens=20, pad_token_id=0)
    positions = (mask.cumsum(1) - 1).clamp(0)
    logits = model(tokens, attention_mask=mask, position_ids=positions).logits[:, -1]


def warped(temperature: float, top_k: float, top_p: float) -> torch.Tensor:
    """As `generate` chains them, those that would do nothing left out."""
    warpers = transformers.LogitsProcessorList([transformers.TemperatureLogitsWarper(temperature)])
    warpers += [transformers.TopKLogitsWarper(int(top_k))] if top_k else []
    warpers += [transformers.TopPLogitsWarper(top_p)] if top_p < 1 else []
    return warpers(tokens, logits).softmax(-1)


probabilities = torch.stack([warped(*one) for one in sampling])
arrays = {"tokens": tokens, "mask": mask, "new": text[:, 17:], "probabilities": probabilities}
np.savez(out, **{name: array.numpy() for name, array in arrays.items()})
