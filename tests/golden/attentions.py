"""Attention probabilities of random models by transformers (eager): for the first batch of each, NAME/attentions, and
of Marian NAME/{encoder,decoder,cross}_attentions, float32 [layers, rows, heads, queries, keys].

Runs among the peers (.venv-parity).

    attentions.py                  writes attentions.npz beside this file, of the models of make_models.py
    attentions.py IN OUT FOLDER    the same of fresh ones by IN's seed, with the batch; they are saved under FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import make_models
import numpy as np
import torch

FAMILIES = ("bert", "gpt2", "marian")


def attentions(model: Any, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    inputs = {name: torch.from_numpy(x.astype(np.int64)) for name, x in features.items()}
    with torch.no_grad():
        outputs = model.eval()(**inputs, output_attentions=True)
    return {k: np.stack([x.numpy() for x in v]) for k, v in outputs.items() if k.endswith("attentions") and v}


def main() -> None:
    found: dict[str, np.ndarray] = {}
    fresh = len(sys.argv) == 4
    seed = int(np.load(sys.argv[1])["seed"]) if fresh else 0
    for family in FAMILIES:
        config, length, train = make_models.LIVE[f"{family}-tiny"] if fresh else make_models.GOLDEN[family]
        model, batches = make_models.random_case(config, length, train, seed)
        model.set_attn_implementation("eager")
        features = {name: x[0] for name, x in batches.items()}
        found |= {f"{family}/{k}": v for k, v in attentions(model, features).items()}
        if fresh:
            model.save_pretrained(Path(sys.argv[3]) / family)
            found |= {f"{family}/batch/{name}": x for name, x in features.items()}
    if fresh:
        np.savez(sys.argv[2], **found)
    else:
        np.savez_compressed(Path(__file__).with_name("attentions.npz"), **found)


if __name__ == "__main__":
    main()
