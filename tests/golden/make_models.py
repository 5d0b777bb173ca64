"""What transformers computes with random models of each family: float32, eager attention, no dropout.

Runs among the peers (.venv-parity).

    make_models.py                          writes FAMILY.npz and tensors.json beside this file
    make_models.py IN OUT make SEED FOLDER  the same of fresh models, which are saved under FOLDER
    make_models.py IN OUT read FOLDER...    the outputs of saved models for IN's FAMILY/FEATURE

A record of a model holds its `config`, `weights/NAME`, `batches/FEATURE` [batches, rows, length]; for the first batch
the logits, the loss and `gradients/NAME`; and the `losses` of AdamW steps by `recipe`. Fresh models with ReLUs are
differentiated and trained with GELUs instead, and so says their `config`; only their logits are of ReLUs.
"""

import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from cases import CLASSES, GOLDEN, LIVE
from safetensors.torch import load_file, save_file

Record = dict[str, Any]

CAUSAL = ("gpt2", "openai-gpt", "gpt_neo")
ROWS, BATCHES, STEPS, SMOOTHING = 4, 5, 20, 0.1
NORMS = ("LayerNorm.weight", "layer_norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight")
# Large enough that a decayed bias, an unclipped gradient or a shifted schedule is seen within a few steps.
RECIPE = {"peak_lr": 0.01, "b1": 0.9, "b2": 0.98, "eps": 1e-6, "weight_decay": 0.1, "clip_norm": 1.0, "warmup": 5}
RECIPES = {"roberta": RECIPE | {"clip_norm": 0.0, "no_decay": ""}}  # nothing is clipped, everything decayed


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The model's parameters, without fixed ones (Marian's positions)."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def random_model(config: Any, rng: np.random.Generator) -> torch.nn.Module:
    """A pretraining model whose every tensor is random, biases and LayerNorms too."""
    heads = {
        "bert": transformers.BertForPreTraining,
        "ernie": transformers.ErnieForPreTraining,
        "gpt2": transformers.GPT2LMHeadModel,
        "openai-gpt": transformers.OpenAIGPTLMHeadModel,
        "gpt_neo": transformers.GPTNeoForCausalLM,
        "marian": transformers.MarianMTModel,
        "roberta": transformers.RobertaForMaskedLM,
    }
    config.attn_implementation = "eager"
    for key in (
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "resid_pdrop",
        "embd_pdrop",
        "attn_pdrop",
        "dropout",
    ):
        if hasattr(config, key):
            setattr(config, key, 0.0)
    model = heads[config.model_type](config)
    with torch.no_grad():
        for name, parameter in trained(model).items():
            values = rng.standard_normal(parameter.shape, np.float32)
            if parameter.ndim > 1:
                values *= 0.6 / config.hidden_size**0.5
            else:
                values = 0.1 * values + name.endswith(NORMS)
            parameter.copy_(torch.from_numpy(values))
    return model


def random_batches(
    config: Any, rows: int, length: int, batches: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Features int32 [batches, rows, length] as transformers names them: right-padded, the first row full."""
    shape = (batches, rows, length)
    lengths = rng.integers(4, length + 1, (batches, rows, 1))
    lengths[:, 0] = length
    mask = np.arange(length) < lengths
    # Not the padding's id: transformers gives its embedding no gradient, wherever it stands; RoBERTa no position.
    pad = config.pad_token_id or 0
    tokens = np.where(mask, rng.integers(pad + 1, config.vocab_size, shape), pad)
    if config.model_type == "marian":
        labels = rng.integers(1, config.vocab_size, (batches, rows, length - 3))
        longest = rng.integers(2, length - 2, (batches, rows, 1))
        labels = np.where(np.arange(length - 3) < longest, labels, -100)
        features = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
    elif config.model_type in CAUSAL:
        features = {"input_ids": tokens, "attention_mask": mask, "labels": np.where(mask, tokens, -100)}
    else:
        first_types = np.arange(length) >= rng.integers(1, lengths)
        last_type = rng.integers(1, max(2, config.type_vocab_size), (batches, rows, 1))
        types = np.where(first_types & mask, last_type, 0)
        # Position 0 always, so that each row predicts; the rest at random, so that rows predict unequal numbers.
        predicted = mask & ((rng.random(shape) < 0.2) | (np.arange(length) == 0))
        features = {
            "input_ids": tokens,
            "attention_mask": mask,
            "token_type_ids": types,
            "labels": np.where(predicted, rng.integers(1, config.vocab_size, shape), -100),
            "next_sentence_label": rng.integers(0, 2, (batches, rows)),
        }
        if config.model_type == "roberta":
            del features["token_type_ids"], features["next_sentence_label"]
    return {name: x.astype(np.int32) for name, x in features.items()}


def run(model: torch.nn.Module, features: dict[str, np.ndarray]) -> Any:
    """The model's outputs for features [rows, length]."""
    return model(**{name: torch.from_numpy(x.astype(np.int64)) for name, x in features.items()})


def loss_of(model: torch.nn.Module, features: dict[str, np.ndarray]) -> tuple[Any, torch.Tensor]:
    """The model's outputs, and the loss that it is trained by: for Marian with SMOOTHING spread over the other words
    (torch spreads its own over all)."""
    outputs = run(model, features)
    if model.config.model_type != "marian":
        return outputs, outputs.loss
    V = model.config.vocab_size
    logits, labels = outputs.logits.reshape(-1, V), torch.from_numpy(features["labels"].astype(np.int64)).reshape(-1)
    return outputs, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING * V / (V - 1))


def random_case(config: Any, length: int, train: bool, seed: int) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    """A random model and its batches."""
    rng = np.random.default_rng(seed)
    rows, batches = (ROWS, BATCHES) if train else (2, 1)
    return random_model(config, rng), random_batches(config, rows, length, batches, rng)


def smooth(model: Any) -> Any:
    """The same weights with GELUs for ReLUs. Of millions of ReLUs some stand nearer to 0 than float32 rounds: whether
    they are open is chance, and torch's own gradients in float32 and float64 then differ by up to 1e-3 of a tensor."""
    config = copy.deepcopy(model.config)
    key = next(key for key in ("hidden_act", "activation_function", "afn") if hasattr(config, key))
    if getattr(config, key) != "relu":
        return model
    setattr(config, key, "gelu")
    made = type(model)(config)
    made.load_state_dict(model.state_dict())
    return made


def record(model: Any, batches: dict[str, np.ndarray], train: bool, fresh: bool = False) -> Record:
    """What is written down about a model, but for its weights; the model is trained on the way."""
    first = {name: x[0] for name, x in batches.items()}
    outputs, loss = loss_of(model, first)
    if fresh and (made := smooth(model)) is not model:
        model, (_, loss) = made, loss_of(made, first)
    loss.backward()
    found = {
        "config": model.config.to_json_string(use_diff=False),
        "recipe": json.dumps(RECIPES.get(model.config.model_type, RECIPE)),
        "loss": loss.item(),
        **{f"batches/{name}": x for name, x in batches.items()},
        **{f"gradients/{name}": p.grad.numpy().copy() for name, p in trained(model).items()},
    }
    if hasattr(outputs, "seq_relationship_logits"):
        logits = {"logits": outputs.prediction_logits, "next_sentence_logits": outputs.seq_relationship_logits}
    else:
        logits = {"logits": outputs.logits}
    found |= {name: x.detach().numpy() for name, x in logits.items()}
    return found | ({"losses": adamw(model, batches)} if train else {})


def adamw(model: torch.nn.Module, batches: dict[str, np.ndarray]) -> np.ndarray:
    """The loss of each step, batches in turn: torch's AdamW and clipping, linear warm-up and decay."""
    recipe = RECIPES.get(model.config.model_type, RECIPE)
    decayed = [p for p in model.parameters() if p.ndim > 1 or "no_decay" in recipe]
    groups = [  # biases and LayerNorms, which have one axis, are not decayed by default
        {"params": [p for p in model.parameters() if p.ndim == 1 and "no_decay" not in recipe], "weight_decay": 0.0},
        {"params": decayed},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        recipe["peak_lr"],
        betas=(recipe["b1"], recipe["b2"]),
        eps=recipe["eps"],
        weight_decay=recipe["weight_decay"],
    )
    warmup = recipe["warmup"]
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (STEPS - step) / (STEPS - warmup))
    )
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        _, loss = loss_of(model, {name: x[step % BATCHES] for name, x in batches.items()})
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["clip_norm"] or float("inf"))
        optimizer.step()
        rates.step()
        losses.append(loss.item())
    return np.array(losses)


def make(seed: int, folder: Path) -> Record:
    """Records of the live cases under `CASE/`. Weights and gradients go to files of FOLDER/CASE."""
    found = {}
    for number, (case, (config, length, train)) in enumerate(LIVE.items()):
        model, batches = random_case(config, length, train, seed + number)
        model.save_pretrained(folder / case)
        made = record(model, batches, train, fresh=True)
        gradients = {k: torch.from_numpy(made.pop(k)) for k in list(made) if k.startswith("gradients/")}
        save_file(gradients, folder / case / "gradients.safetensors")
        found |= {f"{case}/{k}": v for k, v in made.items()}
    return found


def read(folder: Path, features: dict[str, np.ndarray]) -> Record:
    """The outputs of the model that was saved at `folder`, which must hold every tensor of its class and no other."""
    config = json.loads((folder / "config.json").read_text())
    model, report = getattr(transformers, config["architectures"][0]).from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    assert not any(report.values()), report
    family = f"{config['model_type']}/"
    with torch.no_grad():
        outputs = run(model.eval(), {k.removeprefix(family): x for k, x in features.items() if k.startswith(family)})
    return {f"{folder.name}/{k}": v.numpy() for k, v in outputs.items() if isinstance(v, torch.Tensor)}


def saved_shapes(name: str) -> dict[str, Any]:
    """The config and the tensor shapes that transformers' class `name` saves for a tiny model."""
    config = GOLDEN[CLASSES[name]][0]
    with tempfile.TemporaryDirectory() as folder:
        getattr(transformers, name)(config).save_pretrained(folder)
        tensors = load_file(f"{folder}/model.safetensors")
    return {"config": config.to_diff_dict(), "tensors": {k: list(tensors[k].shape) for k in sorted(tensors)}}


def main() -> None:
    torch.set_num_threads(2)
    match sys.argv[1:]:
        case []:
            here = Path(__file__).parent
            for name, (config, length, train) in GOLDEN.items():
                model, batches = random_case(config, length, train, seed=0)
                weights = {f"weights/{k}": p.detach().numpy().copy() for k, p in trained(model).items()}
                np.savez_compressed(here / f"{name}.npz", **weights, **record(model, batches, train))
            shapes = [f"{json.dumps(name)}: {json.dumps(saved_shapes(name))}" for name in CLASSES]
            (here / "tensors.json").write_text("{" + ",\n".join(shapes) + "}\n")
        case [_, out, "make", seed, folder]:
            np.savez(out, **make(int(seed), Path(folder)))
        case [arrays, out, "read", *folders]:
            with np.load(arrays, allow_pickle=False) as features:
                found = [read(Path(folder), dict(features)) for folder in folders]
            np.savez(out, **{k: v for outputs in found for k, v in outputs.items()})
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
