"""Fine-tuning follows transformers: the same random weights, the same rows of MRPC, SST-2, STS-B, SQuAD, CODAH
(in SWAG's format) and CoNLL-2003, 30 AdamW steps.

The same test runs on the committed record (tests/golden/finetuning.npz) and, marked `parity`, on fresh random models.
`python tests/test_finetuning_parity.py DATA PEER_PYTHON` makes the record anew.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import save_file

from lmjax.data.choices import read_choices
from lmjax.data.labelled import labelled_set, read_file
from lmjax.data.squad import read_questions
from lmjax.data.tagged import read_sentences, tagged_set
from lmjax.data.tokenizers import Tokenizer, TokenizerConfig, make_tokenizer
from lmjax.models import MODELS
from lmjax.models.huggingface import read_model
from lmjax.models.wrapped import wrap
from lmjax.tasks import choice, classification, make_task, spans, tagging
from lmjax.tasks.choice import ChoiceConfig
from lmjax.tasks.classification import ClassificationConfig
from lmjax.tasks.spans import SpanConfig
from lmjax.tasks.tagging import TaggingConfig
from lmjax.tasks.task import FilesConfig
from lmjax.train.optim import OptimConfig, make_optimizer, make_schedule
from lmjax.train.step import make_train_step
from lmjax.types import TrainState

GOLDEN = Path(__file__).parent / "golden"
PEER = GOLDEN / "make_finetuning.py"
ROWS, BATCHES, LENGTH, VOCAB = 8, 5, 48, 280
CASES = {
    "bert-mrpc": ("wordpiece", "glue/MRPC/dev.tsv"),
    "bert-stsb": ("wordpiece", "glue/STS-B/dev.tsv"),
    "bert-squad2": ("wordpiece", "squad_v2/dev-part.json"),
    "bert-codah": ("wordpiece", "codah/dev.tsv"),
    "bert-conll2003": ("wordpiece", "conll2003/eng.testa"),
    "roberta-sst2": ("roberta_bpe", "glue/SST-2/dev.tsv"),
}
Arrays = Mapping[str, np.ndarray]


TEXT = {"input_ids": "tokens", "attention_mask": "segment_ids", "token_type_ids": "token_type_ids"}
SPAN = {"start_positions": "starts", "end_positions": "ends"}


def task_config(name: str) -> FilesConfig:
    if name == "squad2":
        return SpanConfig(data=name, query_length=16)
    return {"codah": ChoiceConfig, "conll2003": TaggingConfig}.get(name, ClassificationConfig)(data=name)


def encoded(name: str, kind: str, file: epath.Path) -> tuple[Tokenizer, Mapping[str, np.ndarray], int]:
    """A tokenizer of a file's first examples, their features, and how many numbers a row or a token gets."""

    def trained(texts: Iterable[str]) -> Tokenizer:
        return make_tokenizer(TokenizerConfig(kind, VOCAB), texts)  # type: ignore[arg-type]

    count, cfg = ROWS * BATCHES, task_config(name)
    if isinstance(cfg, SpanConfig):
        asked = read_questions(file, name, has_answers=True)[:count]
        tokenizer = trained(text for question in asked for text in (question.text, question.context))
        features = spans.encode(asked, tokenizer, LENGTH, cfg, training=True).features
        full = features["segment_ids"].all(1)  # transformers lets answers stand in the padding, too
        order = np.argsort(features["starts"][full] == 0, kind="stable")  # windows with an answer first
        return tokenizer, {name: x[full][order] for name, x in features.items()}, 2
    if isinstance(cfg, ChoiceConfig):
        found = read_choices(file, name, needs_labels=True)[:count]
        tokenizer = trained(text for one in found for text in (one.context, *one.endings))
        return tokenizer, choice.encode(found, tokenizer, LENGTH, "separated", False).features, 1
    if isinstance(cfg, TaggingConfig):
        sentences, record = read_sentences(file, name)[:count], tagged_set(name)
        tokenizer = trained(" ".join(sentence.words) for sentence in sentences)
        features = tagging.encode(sentences, tokenizer, LENGTH, record, "document").features
        ignored = np.where(features["loss_weights"] > 0, features["labels"], -100)
        return tokenizer, {**features, "labels": ignored}, len(record.labels)
    examples = read_file(file, name, needs_labels=True)[:count]
    tokenizer = trained(text for example in examples for text in example.texts)
    features = classification.encode(examples, tokenizer, LENGTH, "separated", 1, False).features
    return tokenizer, features, len(labelled_set(name).labels) or 1


def real_batches(case: str, file: Path) -> dict[str, np.ndarray]:
    """The first rows of a file, under transformers' names, [BATCHES, ROWS, ...]."""
    name, (kind, _) = case.split("-")[1], CASES[case]
    tokenizer, found, numbers = encoded(name, kind, epath.Path(file))
    names = {**TEXT, **(SPAN if "starts" in found else {"labels": "labels"})}
    if case.startswith("roberta"):
        del names["token_type_ids"]
    arrays = {theirs: np.asarray(found[ours])[: ROWS * BATCHES] for theirs, ours in names.items()}
    arrays = {k: x.astype(np.float32 if x.dtype.kind == "f" else np.int16) for k, x in arrays.items()}
    arrays = {k: x.reshape(BATCHES, ROWS, *x.shape[1:]) for k, x in arrays.items()}
    arrays |= {"vocab_size": np.array(tokenizer.vocab_size), "num_labels": np.array(numbers)}
    return {f"{case}/{k}": x for k, x in arrays.items()}


def our_batch(hf: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A batch of transformers' under our names."""
    names = {**TEXT, **SPAN, "labels": "labels"}
    batch = {names[k]: x.astype(np.float32 if x.dtype.kind == "f" else np.int32) for k, x in hf.items()}
    batch.setdefault("token_type_ids", 0 * batch["tokens"])
    batch["example_weights"] = np.ones(ROWS, np.float32)
    if "starts" in batch:
        batch["loss_weights"] = batch["example_weights"]
    elif batch["labels"].shape == batch["tokens"].shape:
        batch["loss_weights"] = (batch["labels"] >= 0).astype(np.float32)
        batch["labels"] = np.maximum(batch["labels"], 0)
    return batch


def our_losses(case: str, found: Arrays) -> np.ndarray:
    family, name = case.split("-")
    architecture, task = MODELS[family], make_task(task_config(name))
    assert task.supervised
    assert task.supervised.layer
    with tempfile.TemporaryDirectory() as folder:
        kind = {"architectures": [family.capitalize() + task.supervised.layer.hf_class]}
        Path(folder, "config.json").write_text(json.dumps(json.loads(str(found["config"])) | kind))
        tensors = {k.removeprefix("weights/"): x for k, x in found.items() if k.startswith("weights/")}
        save_file(tensors, Path(folder, "model.safetensors"))
        cfg, heads, params, _ = read_model(epath.Path(folder))
    assert heads == task.heads_of(architecture)
    module = wrap(architecture, cfg, heads, task.supervised.read)

    recipe = OptimConfig(**json.loads(str(found["recipe"])))
    tx, steps = make_optimizer(recipe), len(found["losses"])
    train = make_train_step(
        lambda p, batch, key: module.apply({"params": p}, batch, train=key is not None),  # type: ignore[arg-type]
        task.objective, tx, make_schedule(recipe, steps), "steps",
    )  # fmt: skip
    step, state = (
        jax.jit(train),
        TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), jax.random.key(0)),
    )
    losses = []
    for number in range(steps):
        hf = {k.removeprefix("batches/"): x[number % BATCHES] for k, x in found.items() if k.startswith("batches/")}
        halves = {k: v.reshape(2, -1, *v.shape[1:]) for k, v in our_batch(hf).items()}  # accumulated
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
