"""Log-probabilities of continuations by transformers, one unpadded row at a time: IN.npz OUT.npz FOLDER.

Runs among the peers (.venv-parity). IN holds `seed`; a random GPT-2 is saved in FOLDER; OUT holds for each request I
`contexts/I`, `continuations/I` and `log_probabilities/I`, float64, of the continuation's tokens.
"""

import sys

import numpy as np
import torch
import transformers

seed, (out, folder) = int(np.load(sys.argv[1])["seed"]), sys.argv[2:]
torch.manual_seed(seed)
shape = {"vocab_size": 200, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 80, "initializer_range": 0.3}
model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=None, eos_token_id=None)).eval()
model.save_pretrained(folder)
found = {}
for i, (read, asked) in enumerate([(1, 1), (5, 3), (40, 1), (20, 30), (60, 21), (3, 77), (70, 8)]):
    context, continuation = torch.randint(0, 200, (read,)), torch.randint(0, 200, (asked,))
    with torch.no_grad():
        logits = model(torch.cat([context, continuation])[None, :-1]).logits[0].double()
    log_p = torch.log_softmax(logits, -1)[-asked:].gather(1, continuation[:, None])[:, 0]
    arrays = {"contexts": context, "continuations": continuation, "log_probabilities": log_p}
    found |= {f"{name}/{i}": x.numpy() for name, x in arrays.items()}
np.savez(out, **found)
