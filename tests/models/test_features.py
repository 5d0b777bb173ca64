"""Frozen layers as features, and the biLSTM on top."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.models import MODELS
from lmjax.models.features import BiLstm, FeatureConfig, check_features
from lmjax.models.wrapped import Wrapped, init_wrapped, wrap
from tests.models.tiny import VOCAB, forward, noisy, tiny


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def one_direction(x_LD: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    cell = output = np.zeros(len(bias) // 4)
    outputs = []
    for x_D in x_LD:
        i, j, f, o = np.split(np.concatenate([x_D, output]) @ kernel + bias, 4)
        cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(j)
        output = sigmoid(o) * np.tanh(cell)
        outputs.append(output)
    return np.array(outputs)


def test_the_lstm_against_its_formula_with_padding_passed_over() -> None:
    rng = np.random.default_rng(0)
    x, real = rng.normal(size=(2, 5, 3)).astype(np.float32), np.arange(5) < np.array([[5], [3]])
    module = BiLstm(4)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32),
        jax.eval_shape(module.init, jax.random.key(0), x, real)["params"],
    )
    found = module.apply({"params": params}, x, real)
    for row, length in enumerate((5, 3)):
        ways = [params[way] for way in ("forward", "backward")]
        ahead, back = ((way["kernel"], way["bias"]) for way in ways)
        text = x[row, :length]
        wanted = np.concatenate([one_direction(text, *ahead), one_direction(text[::-1], *back)[::-1]], -1)
        np.testing.assert_allclose(found[row, :length], wanted, atol=1e-5)


def batch_of(family: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    segments = (np.arange(8) < np.array([[8], [5]])).astype(np.int32)
    if family != "elmo":
        return {"tokens": rng.integers(0, VOCAB, (2, 8)).astype(np.int32), "segment_ids": segments}
    characters = rng.integers(1, 262, (2, 8, 50)).astype(np.int32)
    return {"tokens": np.zeros((2, 8), np.int32), "characters": characters, "segment_ids": segments}


def reader(model: Wrapped, batch: Any, train: bool) -> dict[str, Any]:
    outputs = model.run(batch, train)
    return {**outputs, "vector": model.vector(outputs, batch)}


@pytest.mark.parametrize("family", ["bert", "elmo"])
def test_layers_are_combined_and_get_no_gradient(family: str) -> None:
    architecture, cfg, batch = MODELS[family], tiny(family, num_hidden_layers=4), batch_of(family)
    backbone = noisy(cfg, ())
    inputs = {**batch, "tokens": batch.get("characters", batch["tokens"])}
    h = np.asarray(forward(cfg, (), True)(backbone, **inputs)["hidden_states"])
    mixed, size = h if family == "elmo" else h[1:], 5 if family == "elmo" else 4
    weights = np.arange(size) / 3
    softmax = np.exp(weights) / np.exp(weights).sum()
    params = {
        "mix": {"mix": {"weight": weights, "gamma": np.array(2.0)}},
        "alphas": {"mix": {"alpha": weights}},
    }
    wanted = {
        "last": h[-1],
        "second_last": h[-2],
        "mix": 2 * np.einsum("j,jbld->bld", softmax, mixed),
        "alphas": np.einsum("j,jbld->bld", weights, mixed),
        "concat4": np.concatenate(h[-4:], -1),
    }
    modules = {name: wrap(architecture, cfg, (), reader, FeatureConfig(name)) for name in wanted}  # type: ignore[arg-type]

    def outputs(params: Any) -> dict[str, Any]:
        return {
            name: module.apply({"params": backbone | params.get(name, {})}, batch) for name, module in modules.items()
        }

    found = jax.jit(outputs)(jax.tree.map(np.float32, params))
    for name, one in found.items():
        np.testing.assert_allclose(one["hidden"], wanted[name], atol=2e-5)
        text = wanted[name][1, :5]
        np.testing.assert_allclose(one["vector"][1], np.concatenate([text.mean(0), text.max(0)]), atol=2e-5)

    def total(params: Any) -> jax.Array:
        return jnp.sum(jnp.square(modules["mix"].apply({"params": params}, batch)["vector"]))  # type: ignore[index]

    grads = jax.jit(jax.grad(total))(backbone | jax.tree.map(np.float32, params["mix"]))
    assert all(not np.any(leaf) for name in backbone for leaf in jax.tree.leaves(grads[name]))
    assert np.all(grads["mix"]["weight"] != 0)


def test_layers_are_mixed_on_one_scale() -> None:
    """Whatever stands in the padding, or in a row that only fills the batch; at first the mixture is their mean."""
    cfg, batch = tiny("elmo", num_hidden_layers=2), batch_of("elmo")
    backbone, real = noisy(cfg, ()), batch["segment_ids"] > 0
    h = np.asarray(
        forward(cfg, (), True)(backbone, tokens=batch["characters"], segment_ids=batch["segment_ids"])["hidden_states"]
    )
    assert not real.all()
    wanted = np.mean([(one[real] - one[real].mean()) / one[real].std() for one in h], 0)
    module: Any = wrap(MODELS["elmo"], cfg, (), reader, FeatureConfig("mix", layer_norm=True))
    mix = {"mix": {"weight": np.zeros(len(h), np.float32), "gamma": np.float32(1)}}

    def hidden(batch: Any) -> np.ndarray:
        return np.asarray(module.apply({"params": backbone | mix}, batch)["hidden"])

    np.testing.assert_allclose(hidden(batch)[real], wanted, atol=2e-5)
    alone = {name: rows[:1] for name, rows in batch.items()}
    filled = {**batch, "example_weights": np.array([1.0, 0.0], np.float32)}
    np.testing.assert_allclose(hidden(filled)[0], hidden(alone)[0], atol=2e-5)
    assert np.abs(hidden(batch)[0] - hidden(alone)[0]).max() > 1e-3  # a real row counts


def test_what_stands_on_top_is_new() -> None:
    cfg = tiny("bert")
    module = wrap(MODELS["bert"], cfg, (), reader, FeatureConfig("mix", lstm=(6, 5)))
    abstract = jax.eval_shape(lambda key: init_wrapped(module, batch_of("bert"), key), jax.random.key(0))  # type: ignore[arg-type]
    assert set(abstract) - set(noisy(cfg, ())) == {"mix", "bilstm_0", "bilstm_1"}
    assert abstract["bilstm_1"]["backward"]["kernel"].shape == (12 + 5, 20)


@pytest.mark.parametrize(
    ("family", "features", "complaint"),
    [
        ("bert", FeatureConfig("none", lstm=(200,)), "choose features.layers"),
        ("bert", FeatureConfig("concat4"), "takes four layers, and this model has 2"),
        ("bert", FeatureConfig("last", layer_norm=True), "of the layers mix and alphas, not of last"),
        ("gpt2", FeatureConfig("last"), "this model is causal"),
    ],
)
def test_refusals(family: str, features: FeatureConfig, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        check_features(features, MODELS[family], tiny(family))
