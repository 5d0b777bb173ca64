"""Fine-tuning follows transformers: the same random weights, the same rows of MRPC, SST-2 and STS-B, 30 AdamW steps.

The same test runs on the committed record (tests/golden/finetuning.npz) and, marked `parity`, on fresh random models.
`python tests/test_finetuning_parity.py DATA PEER_PYTHON` makes the record anew.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from lmjax.data.labelled import labelled_set, read_file
from lmjax.data.tokenizers import TokenizerConfig, make_tokenizer
from lmjax.models import MODELS, weights
from lmjax.models.architecture import abstract_params
from lmjax.models.weights import flatten, unflatten
from lmjax.models.wrapped import wrap
from lmjax.tasks import make_task
from lmjax.tasks.classification import ClassificationConfig, encode
from lmjax.train.optim import OptimConfig, make_optimizer, make_schedule
from lmjax.train.step import make_train_step
from lmjax.types import TrainState
from tests.models.tiny import QUICKLY

GOLDEN = Path(__file__).parent / "golden"
PEER = GOLDEN / "make_finetuning.py"
ROWS, BATCHES, LENGTH, VOCAB = 8, 5, 48, 280
CASES = {
    "bert-mrpc": ("wordpiece", "glue/MRPC/dev.tsv"),
    "bert-stsb": ("wordpiece", "glue/STS-B/dev.tsv"),
    "roberta-sst2": ("roberta_bpe", "glue/SST-2/dev.tsv"),
}
Arrays = Mapping[str, np.ndarray]


def real_batches(case: str, file: Path) -> dict[str, np.ndarray]:
    """The first rows of a file, under transformers' names, [BATCHES, ROWS, ...]."""
    name = case.split("-")[1]
    examples = read_file(epath.Path(file), name, has_labels=True)[: ROWS * BATCHES]
    texts = [text for example in examples for text in example.texts]
    tokenizer = make_tokenizer(TokenizerConfig(CASES[case][0], VOCAB), texts)  # type: ignore[arg-type]
    found = encode(examples, tokenizer, LENGTH, "separated", 1, False).features
    names = {"input_ids": "tokens", "attention_mask": "segment_ids", "token_type_ids": "token_type_ids"}
    if case.startswith("roberta"):
        del names["token_type_ids"]
    kind = np.int32 if labelled_set(name).labels else np.float32
    arrays = {theirs: found[ours].astype(np.int16) for theirs, ours in names.items()}
    arrays["labels"] = found["labels"].astype(kind)
    cut = {k: x.reshape(BATCHES, ROWS, *x.shape[1:]) for k, x in arrays.items()}
    return {f"{case}/{k}": x for k, x in cut.items()} | {f"{case}/vocab_size": np.array(tokenizer.vocab_size)}


def our_losses(case: str, found: Arrays) -> np.ndarray:
    family, name = case.split("-")
    architecture, hf = MODELS[family], json.loads(str(found["config"]))
    cfg, task = architecture.from_hf(hf), make_task(ClassificationConfig(data=name))
    heads = task.heads_of(architecture)
    tensors = {k.removeprefix("weights/"): x for k, x in found.items() if k.startswith("weights/")}
    out = "classifier.out_proj" if family == "roberta" else "classifier"  # RoBERTa's pooler is part of its classifier
    head = {"kernel": jnp.asarray(tensors.pop(f"{out}.weight").T), "bias": jnp.asarray(tensors.pop(f"{out}.bias"))}
    tensors = {k.replace("classifier.dense", "roberta.pooler.dense"): x for k, x in tensors.items()}
    rows = architecture.weights(cfg)
    backbone = weights.from_hf(rows, tensors, abstract_params(architecture, cfg, heads), cfg.vocab_size)
    assert task.supervised
    module = wrap(architecture, cfg, heads, task.supervised.read)
    params = unflatten(flatten(jax.tree.map(jnp.asarray, backbone))) | {"classifier": head}

    recipe = OptimConfig(**json.loads(str(found["recipe"])))
    tx, steps = make_optimizer(recipe), len(found["losses"])
    train = make_train_step(
        lambda p, batch, key: module.apply({"params": p}, batch, train=key is not None),  # type: ignore[arg-type]
        task.objective, tx, make_schedule(recipe, steps), "steps",
    )  # fmt: skip
    step, state = (
        jax.jit(train, compiler_options=QUICKLY),
        TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), jax.random.key(0)),
    )
    losses = []
    for number in range(steps):
        hf = {k.removeprefix("batches/"): x[number % BATCHES] for k, x in found.items() if k.startswith("batches/")}
        tokens = hf["input_ids"].astype(np.int32)
        batch = {
            "tokens": tokens,
            "segment_ids": hf["attention_mask"].astype(np.int32),
            "token_type_ids": hf.get("token_type_ids", 0 * tokens).astype(np.int32),
            "labels": hf["labels"],
            "example_weights": np.ones(ROWS, np.float32),
        }
        halves = {k: v.reshape(2, -1, *v.shape[1:]) for k, v in batch.items()}  # accumulated
        state, metrics = step(state, halves | {"micro_batches": np.int32(2), "tokens_seen": np.float32(0)})
        losses.append(metrics["loss"])
    return np.array(losses)


def check(case: str, found: Arrays) -> None:
    ours, theirs = our_losses(case, found), found["losses"]
    print(f"{case}: {theirs[0]:.3f} -> {theirs[-1]:.3f}, losses differ by at most {np.abs(ours - theirs).max():.1e}")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
    assert np.ptp(theirs[::BATCHES]) > 0.05  # the same batch, at other weights


def part(case: str, arrays: Arrays) -> dict[str, np.ndarray]:
    return {k.removeprefix(f"{case}/"): x for k, x in arrays.items() if k.startswith(f"{case}/")}


@pytest.mark.parametrize("case", CASES)
def test_thirty_steps_give_the_losses_of_the_record(case: str) -> None:
    with np.load(GOLDEN / "finetuning.npz", allow_pickle=False) as file:
        check(case, part(case, file))


@pytest.mark.parity
def test_thirty_steps_of_fresh_models_give_the_same_losses(run_peer, shared_data) -> None:
    seed = int(os.environ.get("LMJAX_PARITY_SEED", int.from_bytes(os.urandom(3))))
    print(f"LMJAX_PARITY_SEED={seed} repeats this")
    batches = {k: x for case in CASES for k, x in real_batches(case, shared_data(CASES[case][1])).items()}
    found = run_peer(PEER, batches, str(seed))
    for case in CASES:
        check(case, part(case, found))


if __name__ == "__main__":
    made = {k: x for case in CASES for k, x in real_batches(case, Path(sys.argv[1]) / CASES[case][1]).items()}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/in.npz", **made)  # type: ignore[arg-type]
        subprocess.run([sys.argv[2], PEER, f"{folder}/in.npz", GOLDEN / "finetuning.npz", "0"], check=True)
