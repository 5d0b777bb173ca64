"""What transformers computes when it fine-tunes random models, by its class for each task: float32, no dropout,
torch's AdamW.

Runs among the peers (.venv-parity).

    make_finetuning.py IN OUT SEED    trains a model for each CASE of IN's `CASE/FEATURE` [batches, rows, ...]

Features are transformers' own, and `vocab_size` and `num_labels`. A record of a case holds its `config`, `weights/NAME`
from before the training, the batches, the `recipe` and the `losses`. The golden records are made by
tests/test_finetuning_parity.py.
"""

import json
import sys
from typing import Any

import numpy as np
import torch
import transformers

STEPS = 30
RECIPE = {"peak_lr": 5e-3, "weight_decay": 0.01, "warmup": 3, "clip_norm": 1.0, "eps": 1e-6, "b1": 0.9, "b2": 0.999}
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FAMILIES: dict[str, Any] = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
}
HEADS = ("classifier", "qa_outputs")
CLASSES = {  # of the tasks that do not classify texts
    "squad2": "ForQuestionAnswering",
    "codah": "ForMultipleChoice",
    "conll2003": "ForTokenClassification",
}


def fine_tuned(case: str, features: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    """A random model, and the losses of training it on the batches in turn."""
    family, task = case.split("-")
    name, more = FAMILIES[family]
    config_of = getattr(transformers, f"{name}Config")
    model_of = getattr(transformers, f"{name}{CLASSES.get(task, 'ForSequenceClassification')}")
    vocab_size = int(features.pop("vocab_size"))
    positions = features["input_ids"].shape[-1] + 2
    kind: dict[str, Any] = {"num_labels": int(features.pop("num_labels"))}
    kind |= {"problem_type": "regression"} if kind["num_labels"] == 1 else {}
    batches = dict(features)
    shape = SHAPE | {"vocab_size": vocab_size, "max_position_embeddings": positions}
    config = config_of(**shape, **QUIET, **more, **kind, attn_implementation="eager")
    torch.manual_seed(seed)
    model = model_of(config).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name and name.endswith("weight"):
                parameter.mul_(20.0 if name.startswith(HEADS) or "pooler" in name else 4.0)  # few steps shall matter
    weights = {f"weights/{k}": p.detach().numpy().copy() for k, p in model.named_parameters()}
    losses = adamw(model, batches)
    record = {"config": config.to_json_string(use_diff=False), "recipe": json.dumps(RECIPE), "losses": losses}
    return record | weights | {f"batches/{k}": x for k, x in batches.items()}


def adamw(model: torch.nn.Module, batches: dict[str, np.ndarray]) -> np.ndarray:
    decayed = [p for n, p in model.named_parameters() if not (n.endswith("bias") or "LayerNorm" in n)]
    others = [p for n, p in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        RECIPE["peak_lr"],
        betas=(RECIPE["b1"], RECIPE["b2"]),
        eps=RECIPE["eps"],
        weight_decay=RECIPE["weight_decay"],
    )
    warmup = RECIPE["warmup"]
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (STEPS - step) / (STEPS - warmup))
    )
    losses = []
    for step in range(STEPS):
        rows = {k: torch.from_numpy(x[step % len(x)]) for k, x in batches.items()}
        rows = {k: x if x.is_floating_point() else x.long() for k, x in rows.items()}
        optimizer.zero_grad()
        loss = model(**rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE["clip_norm"])
        optimizer.step()
        rates.step()
        losses.append(loss.item())
    return np.array(losses)


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    with np.load(sys.argv[1], allow_pickle=False) as file:
        arrays = dict(file)
    found = {}
    for number, case in enumerate(sorted({name.split("/")[0] for name in arrays})):
        features = {k.removeprefix(f"{case}/"): x for k, x in arrays.items() if k.startswith(f"{case}/")}
        record = fine_tuned(case, features, int(sys.argv[3]) + number)
        found |= {f"{case}/{k}": v for k, v in record.items()}
    np.savez_compressed(sys.argv[2], **found)


if __name__ == "__main__":
    main()
