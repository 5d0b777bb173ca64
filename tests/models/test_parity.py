"""Each family against transformers, float32: logits, losses, gradients, AdamW steps, weights in both directions.

The same tests run on the committed records of tests/golden and, marked `parity`, on fresh ones of random models.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file

from lmjax.interop import LanguageModel, load
from lmjax.models import MODELS, architecture_of, weights
from lmjax.models.architecture import ModelConfig, abstract_params
from lmjax.models.gpt import GptConfig
from lmjax.models.huggingface import Model, read_model
from lmjax.train.optim import OptimConfig, make_optimizer, make_schedule
from lmjax.train.step import make_train_step
from lmjax.types import TrainState
from tests.models.tiny import RECIPES, applier, noisy

GOLDEN = Path(__file__).parents[1] / "golden"
PEER = GOLDEN / "make_models.py"
Arrays = Mapping[str, np.ndarray]


class Reference(NamedTuple):
    """A model, and what transformers computed with it: a record as tests/golden/make_models.py describes it."""

    family: str
    model: Model
    found: Arrays

    @property
    def trained(self) -> ModelConfig:
        """The config by which gradients and losses are recorded: a fresh model's is `model.config` without ReLUs."""
        return MODELS[self.family].from_hf(json.loads(str(self.found["config"])))

    def features(self, batch: int) -> dict[str, np.ndarray]:
        """One of the record's batches in lmjax's terms."""
        hf = {k: v[batch] for k, v in part(self.found, "batches/").items()}
        if self.family == "marian":
            return self._seq2seq_features(hf)
        return mlm_features(hf) if "mlm" in self.model.heads else clm_features(hf)

    def _seq2seq_features(self, hf: Arrays) -> dict[str, np.ndarray]:
        labels, start = hf["labels"], np.full((len(hf["labels"]), 1), self.model.config.decoder_start_token_id)
        return {
            "encoder_tokens": hf["input_ids"],
            "encoder_segment_ids": hf["attention_mask"],
            "tokens": np.concatenate([start, np.maximum(labels[:, :-1], 0)], 1).astype(np.int32),
            "targets": np.maximum(labels, 0),
            "loss_weights": (labels >= 0).astype(np.float32),
        }


def part(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def mlm_features(hf: Arrays) -> dict[str, np.ndarray]:
    """transformers predicts where a label is not -100; lmjax at listed positions, those of weight 0 only fill a row."""
    labels = hf["labels"]
    positions = np.argsort(labels < 0, axis=-1, kind="stable").astype(np.int32)
    targets = np.take_along_axis(labels, positions, -1)
    names = {"token_type_ids": "token_type_ids", "next_sentence_labels": "next_sentence_label"}
    return {ours: hf[theirs] for ours, theirs in names.items() if theirs in hf} | {
        "tokens": hf["input_ids"],
        "segment_ids": hf["attention_mask"],
        "mlm_positions": np.where(targets >= 0, positions, 0),
        "targets": np.maximum(targets, 0),
        "loss_weights": (targets >= 0).astype(np.float32),
        "example_weights": np.ones(len(labels), np.float32),
    }


def clm_features(hf: Arrays) -> dict[str, np.ndarray]:
    return {
        "tokens": hf["input_ids"][:, :-1],
        "segment_ids": hf["attention_mask"][:, :-1],
        "targets": hf["input_ids"][:, 1:],
        "loss_weights": hf["attention_mask"][:, 1:].astype(np.float32),
    }


@pytest.fixture(scope="module")
def seed() -> int:
    """A fresh one for each run."""
    return int(os.environ.get("LMJAX_PARITY_SEED", int.from_bytes(os.urandom(3))))


@pytest.fixture(scope="module")
def live(run_peer, seed) -> Iterator[tuple[Path, Arrays]]:
    """The models that transformers saved, one a folder, and their records under `CASE/`."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), run_peer(PEER, {}, "make", str(seed), folder)


@pytest.fixture
def reference(request) -> Reference:
    where, case = request.param.split("/")
    family = next(name for name in MODELS if case.startswith(name))
    if where == "golden":
        with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as file:
            found = dict(file)
        cfg = MODELS[family].from_hf(json.loads(str(found["config"])))
        abstract = abstract_params(MODELS[family], cfg, RECIPES[family][0])
        params = weights.from_hf(MODELS[family].weights(cfg), part(found, "weights/"), abstract, cfg.vocab_size)
        return Reference(family, Model(cfg, RECIPES[family][0], params), found)
    print(f"LMJAX_PARITY_SEED={request.getfixturevalue('seed')} repeats this")
    folder, records = request.getfixturevalue("live")
    gradients = load_file(folder / case / "gradients.safetensors")
    return Reference(
        family, _without_bias(read_model(epath.Path(folder / case))), part(records, f"{case}/") | gradients
    )


def _without_bias(model: Model) -> Model:
    """transformers writes Marian's output bias, always, and never trains it."""
    if "output_bias" not in model.heads:
        return model
    assert not np.any(model.params["output_bias"])
    heads = tuple(head for head in model.heads if head != "output_bias")
    return model._replace(heads=heads, params={k: v for k, v in model.params.items() if k != "output_bias"})


def on(*cases: str) -> pytest.MarkDecorator:
    """Runs a test with the reference of each case."""
    marks = {"golden": pytest.mark.core, "live": pytest.mark.parity}
    cases_ = [pytest.param(case, marks=marks[case.split("/")[0]]) for case in cases]
    return pytest.mark.parametrize("reference", cases_, indirect=True)


TRAINED = ("bert", "ernie", "gpt2", "marian", "openai-gpt", "roberta")
TINY = (*(f"golden/{family}" for family in TRAINED), *(f"live/{family}-tiny" for family in TRAINED))
PUBLISHED = ("bert-base", "ernie-base", "gpt2-small", "marian-base", "openai-gpt-base", "roberta-base")
PUBLISHED = tuple(f"live/{name}" for name in PUBLISHED)


def assert_logits(reference: Reference, atol: float) -> None:
    hf = {k: v[0] for k, v in part(reference.found, "batches/").items()}
    lm = LanguageModel(*reference.model[:3], None)
    inputs = {"tokens": hf["input_ids"]} | {k: hf[k] for k in ("attention_mask", "token_type_ids") if k in hf}
    real = hf["attention_mask"] == 1
    if reference.family == "marian":
        features = reference.features(0)
        inputs = {k: features[k] for k in ("tokens", "encoder_tokens", "encoder_segment_ids")}
        real = hf["labels"] >= 0
    outputs = lm(**inputs)
    differences = np.abs(outputs["logits"][real] - reference.found["logits"][real])
    print(f"{reference.family}: logits differ by at most {differences.max():.1e}")
    assert differences.max() <= atol
    if "next_sentence_logits" in reference.found:
        theirs = reference.found["next_sentence_logits"]
        np.testing.assert_allclose(outputs["next_sentence_logits"], theirs, rtol=0, atol=atol)


@on(*TINY)
def test_tiny_models_give_the_same_logits(reference):
    assert_logits(reference, atol=1e-5)


@on(*PUBLISHED)
def test_published_shapes_give_the_same_logits(reference):
    assert_logits(reference, atol=1e-4)


@on(*TINY, *PUBLISHED)
def test_loss_and_gradients_agree(reference):
    _, heads, params, _ = reference.model
    objective = RECIPES[reference.family][1]
    cfg, batch = reference.trained, objective.prepare(reference.features(0))

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        return objective.loss(objective.terms(applier(cfg, heads)(params, batch, None), batch))

    value, gradients = loss(params)
    np.testing.assert_allclose(value, reference.found["loss"], rtol=1e-4)
    assert not np.any(gradients["word_embeddings"]["embedding"][cfg.vocab_size :])  # rows that only pad
    ours = weights.to_hf(architecture_of(cfg).weights(cfg), gradients, cfg.vocab_size)
    theirs = part(reference.found, "gradients/")
    assert ours.keys() == theirs.keys()
    # A key's bias moves all scores of a query alike: its gradient is 0 but for rounding, and has no relative error.
    rounding = 1e-6 * np.sqrt(sum(np.sum(np.square(g)) for g in theirs.values()))
    worst = 0.0
    for name, gradient in theirs.items():
        difference, size = np.linalg.norm(ours[name] - gradient), np.linalg.norm(gradient)
        assert difference <= 1e-4 * size + rounding, name
        worst = max(worst, difference / size if size > rounding else 0.0)
    print(f"{reference.family}: gradients differ by at most {worst:.1e} of a tensor's norm")


@on(*TINY)
def test_twenty_adamw_steps_give_the_same_losses(reference):
    """Within 1e-4. A fresh random model may make more than that of roundings in twenty steps, a Marian above all; our
    own losses, begun with every parameter one float32 further, show up to each step how much. The two implementations,
    which round apart in each operation, were 1.5 to 11 times as far apart on six such models."""
    cfg, losses = OptimConfig(**json.loads(str(reference.found["recipe"]))), reference.found["losses"]
    tx, apply = make_optimizer(cfg), applier(reference.trained, reference.model.heads)
    train = make_train_step(apply, RECIPES[reference.family][1], tx, make_schedule(cfg, len(losses)), cfg.unit)
    step, start = jax.jit(train), reference.model.params

    def losses_from(params):
        state, found = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), jax.random.key(0)), []
        for number in range(len(losses)):
            batch = reference.features(number % len(reference.found["batches/input_ids"]))
            # Two micro-batches with unequal numbers of predictions: the objective is that of the whole batch.
            halves = {k: v.reshape(2, -1, *v.shape[1:]) for k, v in batch.items()}
            state, metrics = step(state, halves | {"micro_batches": np.int32(2), "tokens_seen": np.float32(0)})
            found.append(float(metrics["loss"]))
        return np.array(found)

    ours = losses_from(start)
    further = losses_from(jax.tree.map(lambda x: np.nextafter(x, np.float32(np.inf)), jax.device_get(start)))
    apart, rounding = np.abs(ours - losses), np.maximum.accumulate(np.abs(ours - further))
    said = f"losses of {len(losses)} steps differ by at most {apart.max():.1e}; by a rounding {rounding[-1]:.1e}"
    print(f"{reference.family}: {said}")
    assert np.all(apart <= np.maximum(1e-4, 30 * rounding))
    assert losses[-1] < losses[0] - 0.5  # it was not all warm-up


def gpt_neo_as_gpt3(tensors: Arrays, query_scale: float) -> dict[str, np.ndarray]:
    """GPT-Neo's tensors under GPT-2's names. It has no biases of queries, keys and values, and does not divide scores
    by the square root of the head size: the queries make up for that."""
    found = {}
    for name, x in tensors.items():
        layer, _, projection = name.partition(".attn.attention.")
        if projection == "q_proj.weight":
            parts = [x * query_scale, *(tensors[f"{layer}.attn.attention.{part}_proj.weight"] for part in "kv")]
            found[f"{layer}.attn.c_attn.weight"] = np.concatenate([part.T for part in parts], 1)
        elif projection.startswith("out_proj"):
            found[f"{layer}.attn.c_proj{projection.removeprefix('out_proj')}"] = x.T
        elif not projection:
            found[name] = x.T if ".mlp." in name else x
    return found


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("gpt_neo", marks=pytest.mark.core),
        pytest.param("gpt_neo-tiny", marks=pytest.mark.parity),
    ],
)
def test_gpt3_is_gpt_neo_but_for_the_scale_of_scores(request, case):
    """transformers has no GPT-3, but another decoder of dense and banded layers in turn."""
    if case == "gpt_neo":
        with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as file:
            found = dict(file)
        tensors, gradients = part(found, "weights/"), part(found, "gradients/")
    else:
        folder, records = request.getfixturevalue("live")
        found = part(records, f"{case}/")
        tensors = load_file(folder / case / "model.safetensors")
        gradients = part(load_file(folder / case / "gradients.safetensors"), "gradients/")
    neo, architecture = json.loads(str(found["config"])), MODELS["gpt2"]
    assert neo["attention_layers"] == ["global", "local"] * 2
    cfg = GptConfig(
        vocab_size=neo["vocab_size"],
        hidden_size=neo["hidden_size"],
        num_hidden_layers=neo["num_layers"],
        num_attention_heads=neo["num_heads"],
        intermediate_size=neo["intermediate_size"],
        max_position_embeddings=neo["max_position_embeddings"],
        window=neo["window_size"],
    )
    named = gpt_neo_as_gpt3(tensors, cfg.head_size**0.5)
    biases = {f"transformer.h.{i}.attn.c_attn.bias": np.zeros(3 * cfg.hidden_size) for i in range(4)}
    rows, abstract = architecture.weights(cfg), abstract_params(architecture, cfg, ("clm",))
    params = weights.from_hf(rows, named | biases, abstract, cfg.vocab_size)
    model = Reference("gpt2", Model(cfg, ("clm",), params), found)
    assert_logits(model, atol=1e-5)

    apply, objective = applier(cfg, ("clm",)), RECIPES["gpt3"][1]
    batch = objective.prepare(model.features(0))
    loss = jax.jit(jax.value_and_grad(lambda p: objective.loss(objective.terms(apply(p, batch, None), batch))))
    value, ours = loss(params)
    np.testing.assert_allclose(value, found["loss"], rtol=1e-5)
    ours = weights.to_hf(rows, ours, cfg.vocab_size)
    theirs = gpt_neo_as_gpt3(gradients, cfg.head_size**-0.5)
    assert ours.keys() - theirs.keys() == biases.keys()
    for name, gradient in theirs.items():
        assert np.linalg.norm(ours[name] - gradient) <= 1e-4 * np.linalg.norm(gradient), name


# family and heads: the name of each output in the class of transformers that has these heads
WRITTEN = {
    ("bert", "mlm", "nsp"): {"logits": "prediction_logits", "next_sentence_logits": "seq_relationship_logits"},
    ("bert", "mlm"): {"logits": "logits"},
    ("bert", "nsp"): {"next_sentence_logits": "logits"},
    ("bert", "pooler"): {"hidden": "last_hidden_state", "pooled": "pooler_output"},
    ("ernie", "mlm", "nsp"): {"logits": "prediction_logits", "next_sentence_logits": "seq_relationship_logits"},
    ("ernie", "mlm"): {"logits": "logits"},
    ("ernie", "pooler"): {"hidden": "last_hidden_state", "pooled": "pooler_output"},
    ("gpt2", "clm"): {"logits": "logits"},
    ("gpt2",): {"hidden": "last_hidden_state"},
    ("openai-gpt", "clm"): {"logits": "logits"},
    ("openai-gpt",): {"hidden": "last_hidden_state"},
    ("marian", "seq2seq"): {"logits": "logits", "encoder_hidden": "encoder_last_hidden_state"},
    ("marian", "seq2seq", "output_bias"): {"logits": "logits"},
    ("roberta", "mlm"): {"logits": "logits"},
    ("roberta", "pooler"): {"hidden": "last_hidden_state", "pooled": "pooler_output"},
}


@pytest.mark.parity
def test_transformers_loads_what_lmjax_writes_and_back(run_peer, seed, tmp_path):
    print(f"LMJAX_PARITY_SEED={seed} repeats this")
    rng, order = np.random.default_rng(seed), np.arange(14)
    mask = (order < np.array([[14], [5], [9]])).astype(np.int32)  # GPT-2's is turned round: padding before a prompt
    families = {family for family, *_ in WRITTEN}
    masks = {family: mask[:, ::-1] if family in ("gpt2", "openai-gpt") else mask for family in families}
    pads = dict.fromkeys(families, 0) | {"roberta": 1}
    tokens = {f: np.where(masks[f], rng.integers(2, 61, mask.shape), pads[f]).astype(np.int32) for f in families}
    types = dict.fromkeys(families & {"bert", "ernie"}, rng.integers(0, 2, mask.shape, np.int32) * mask)
    positions = np.maximum(np.cumsum(masks["gpt2"], 1) - 1, 0)
    features = {f"{family}/input_ids": x for family, x in tokens.items()}
    features |= {f"{family}/attention_mask": x for family, x in masks.items()}
    features |= {f"{family}/token_type_ids": x for family, x in types.items()}
    features |= {"gpt2/position_ids": positions, "openai-gpt/position_ids": positions}
    features["marian/decoder_input_ids"] = tokens["marian"][::-1]
    expected = {}
    for (family, *heads), names in WRITTEN.items():
        with np.load(GOLDEN / f"{family}.npz", allow_pickle=False) as file:
            cfg = MODELS[family].from_hf(json.loads(str(file["config"])))
        model, name = LanguageModel(cfg, tuple(heads), noisy(cfg, tuple(heads)), None), "-".join([family, *heads])
        model.save_hf(tmp_path / name)
        inputs = {"tokens": tokens[family], "attention_mask": masks[family]}
        inputs |= {"token_type_ids": types[family]} if family in types else {}
        if family == "marian":
            inputs = {"tokens": tokens[family][::-1], "encoder_tokens": tokens[family], "encoder_segment_ids": mask}
        outputs, again = model(**inputs), load(tmp_path / name)(**inputs)
        jax.tree.map(np.testing.assert_array_equal, {k: again[k] for k in outputs}, outputs)
        expected |= {f"{name}/{theirs}": (outputs[ours], masks[family] == 1) for ours, theirs in names.items()}
    found = run_peer(PEER, features, "read", *sorted(str(folder) for folder in tmp_path.iterdir()))
    for name, (values, real) in expected.items():
        real = real if values.ndim == 3 else slice(None)
        np.testing.assert_allclose(found[name][real], values[real], rtol=0, atol=1e-5, err_msg=name)
