"""Beam search by transformers with a random Marian: IN.npz OUT.npz FOLDER.

Runs among the peers (.venv-parity). IN holds `seed` and `searches`, a JSON list of [length_penalty, early_stopping];
the model is saved in FOLDER. OUT holds `tokens` and `mask` (sources, padded on the right) and, for the i-th search,
`i/best` (beams of each source, best first, from the start token on) and `i/scores`, [sources, beams].
"""

import json
import sys

import numpy as np
import torch
import transformers

BEAMS, NEW, ROWS, LENGTH = 4, 26, 5, 10
given, (out, folder) = np.load(sys.argv[1]), sys.argv[2:]
torch.manual_seed(int(given["seed"]))
shape = {"vocab_size": 120, "d_model": 32, "max_position_embeddings": 64, "scale_embedding": True}
shape |= {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in [("layers", 2), ("ffn_dim", 64)]}
shape |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
ids = {"pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 3, "forced_eos_token_id": None}
config = transformers.MarianConfig(**shape, **ids, activation_function="relu", init_std=0.25)
model = transformers.MarianMTModel(config).eval()
model.final_logits_bias[0, 3] = 2.0  # translations that end, each at a step of its own
model.save_pretrained(folder)
lengths = torch.tensor([LENGTH, 4, 7, 2, 9])[:, None]
mask = (torch.arange(LENGTH)[None] < lengths).long()
tokens = torch.randint(4, 120, (ROWS, LENGTH)) * mask
found = {"tokens": tokens.numpy(), "mask": mask.numpy()}
for number, (penalty, stopping) in enumerate(json.loads(str(given["searches"]))):
    with torch.no_grad():
        made = model.generate(
            tokens,
            attention_mask=mask,
            num_beams=BEAMS,
            num_return_sequences=BEAMS,
            max_new_tokens=NEW,
            length_penalty=penalty,
            early_stopping=stopping,
            bad_words_ids=[[0]],
            forced_eos_token_id=None,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
    found[f"{number}/best"] = made.sequences.reshape(ROWS, BEAMS, -1).numpy()
    found[f"{number}/scores"] = made.sequences_scores.reshape(ROWS, BEAMS).numpy()
np.savez(out, **found)
