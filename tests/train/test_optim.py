"""Optimizers against plain ones on parameters that are not stacked, schedules against their closed forms, who decays.

AdamW is held against torch in tests/models/test_parity.py.
"""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmjax.errors import UserError
from lmjax.models import MODELS
from lmjax.models.architecture import abstract_params
from lmjax.models.weights import flatten, unflatten
from lmjax.train.optim import OptimConfig, decay_mask, make_optimizer, make_schedule
from tests.models.tiny import noisy, tiny

pytestmark = pytest.mark.core

PEAK = 2.0


def linear(step, warmup, total, end):
    return 1 - (1 - end) * (step - warmup) / (total - warmup)


def cosine(step, warmup, total, end):
    return end + (1 - end) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


@pytest.mark.parametrize(
    ("decay", "rising", "falling"),
    [  # of the steps done before, the warm-up, the total and the end factor; steps from 0
        ("linear", lambda s, w: (s + 1) / w, linear),
        ("linear_from_zero", lambda s, w: s / w, lambda s, w, t, e: 1 - (1 - e) * s / t),
        ("cosine", lambda s, w: (s + 1) / w, cosine),
        ("inverse_sqrt", lambda s, w: (s + 1) / w, lambda s, w, t, e: math.sqrt(w / (s + 1))),
        ("constant", lambda s, w: (s + 1) / w, lambda s, w, t, e: 1.0),
    ],
)
@pytest.mark.parametrize("end", [0.0, 0.1])
@pytest.mark.parametrize("total", [0, 30])  # 0: the whole run
def test_schedules_have_their_closed_forms(decay, rising, falling, end, total):
    cfg = OptimConfig(peak_lr=PEAK, decay=decay, warmup=8, total=total, end_factor=end)
    schedule = jax.jit(make_schedule(cfg, whole_run=40))
    last = total or 40
    for step in range(last + 1):
        expected = rising(step, 8) if step < 8 else falling(step, 8, last, end)
        assert schedule(jnp.float32(step)) == pytest.approx(PEAK * expected, rel=1e-5, abs=1e-6)
    if decay in ("linear", "linear_from_zero", "cosine"):
        assert schedule(jnp.float32(last + 5)) == pytest.approx(PEAK * end, abs=1e-6)  # it stays there


def test_inverse_sqrt_is_the_transformers_formula():
    """lrate = d_model^-0.5 min(step^-0.5, step warmup^-1.5), steps from 1; its peak is (d_model warmup)^-0.5."""
    size, warmup = 512, 20
    cfg = OptimConfig(peak_lr=(size * warmup) ** -0.5, decay="inverse_sqrt", warmup=warmup)
    rates = [float(make_schedule(cfg, 100)(jnp.float32(step - 1))) for step in range(1, 101)]
    expected = [size**-0.5 * min(step**-0.5, step * warmup**-1.5) for step in range(1, 101)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1, 3_000_000])  # the latter has GPT-3's 300 billion tokens, more than an int32 holds
def test_a_schedule_in_tokens_counts_those_seen_before(scale):
    cfg = OptimConfig(peak_lr=PEAK, warmup=10_000 * scale, total=110_000 * scale, unit="tokens")
    schedule = jax.jit(make_schedule(cfg, whole_run=0))
    rates = [float(schedule(jnp.float32(n * scale))) for n in (0, 2_500, 10_000, 60_000, 110_000, 10**6)]
    np.testing.assert_allclose(rates, [0, 0.5, 2, 1, 0, 0], atol=1e-6)


def test_without_warmup_the_first_step_has_the_peak():
    for decay in ("linear", "linear_from_zero", "cosine", "inverse_sqrt", "constant"):
        assert make_schedule(OptimConfig(peak_lr=PEAK, decay=decay), 10)(jnp.float32(0)) == PEAK


@pytest.mark.parametrize("family", MODELS)
def test_biases_and_norms_are_not_decayed(family):
    params = abstract_params(MODELS[family], tiny(family, position_combine="concat"), MODELS[family].heads)
    for path, decayed in flatten(decay_mask(OptimConfig().no_decay)(params)).items():
        assert decayed == path.endswith(("kernel", "embedding")), path
    assert all(jax.tree.leaves(decay_mask("")(params)))


def descend(params, direction, rate):
    return jax.tree.map(lambda p, d: p - rate * d, params, direction)


def stacked_case():
    """Parameters wide enough for Adafactor to factor, and two gradients whose layers differ in size."""
    cfg = tiny("bert", hidden_size=128, intermediate_size=256)
    some = re.compile(r"word_embeddings|embeddings_norm|layers/(attention/query|attention_norm|mlp/up)")
    params = {path: x for path, x in flatten(noisy(cfg, ())).items() if some.match(path)}
    rng = np.random.default_rng(0)

    def gradient(path, x):
        scale = np.array([1.0, 30.0]).reshape(2, *[1] * (x.ndim - 1)) if path.startswith("layers/") else 1.0
        return (1e-3 * scale * rng.standard_normal(x.shape)).astype(np.float32)

    return params, [{path: gradient(path, x) for path, x in params.items()} for _ in range(2)]


def unstacked(leaves):
    """`layers/x` [N, ...] as N leaves `0/x`, `1/x`, ..."""
    split = {path: x for path, x in leaves.items() if not path.startswith("layers/")}
    for path, x in leaves.items():
        if path.startswith("layers/"):
            split |= {f"{layer}/{path.removeprefix('layers/')}": x[layer] for layer in range(len(x))}
    return split


def trajectory(tx, params, gradients):
    """Parameters by path after each step of `params - 0.01 * direction`."""
    params = unflatten(params)
    state, update, found = tx.init(params), jax.jit(tx.update), []
    for gradient in gradients:
        direction, state = update(unflatten(gradient), state, params)
        params = descend(params, direction, 0.01)
        found.append(flatten(params))
    return found


@pytest.mark.parametrize("optimizer", ["lamb", "adafactor"])
def test_stacked_layers_are_optimised_as_if_each_stood_alone(optimizer):
    cfg = OptimConfig(optimizer, weight_decay=0.1)
    mask = decay_mask(cfg.no_decay)
    plain = {  # optax's own, which descend
        "lamb": optax.lamb(1.0, cfg.b1, cfg.b2, cfg.eps, weight_decay=0.1, mask=mask),
        "adafactor": optax.adafactor(weight_decay_rate=0.1, weight_decay_mask=mask),
    }[optimizer]
    plain = optax.chain(optax.clip_by_global_norm(cfg.clip_norm), plain, optax.scale(-1.0))
    params, gradients = stacked_case()
    ours = map(unstacked, trajectory(make_optimizer(cfg), params, gradients))
    theirs = trajectory(plain, unstacked(params), map(unstacked, gradients))
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one.keys() == other.keys()
        for path, value in one.items():
            np.testing.assert_allclose(value, other[path], rtol=1e-6, atol=1e-6, err_msg=f"step {step}: {path}")


def bert_steps(params, gradients, names, init_lr, num_train_steps, num_warmup_steps):
    """google-research/bert, optimization.py, in float64: `names` are the variables' there."""
    m = {k: np.zeros_like(p) for k, p in params.items()}
    v = {k: np.zeros_like(p) for k, p in params.items()}
    for global_step, grads in enumerate(gradients):
        learning_rate = init_lr * (1 - min(global_step, num_train_steps) / num_train_steps)
        if global_step < num_warmup_steps:
            learning_rate = init_lr * global_step / num_warmup_steps
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in grads.values()))
        params = dict(params)
        for k, g in grads.items():
            g = g / max(norm, 1.0)
            m[k] = 0.9 * m[k] + (1 - 0.9) * g
            v[k] = 0.999 * v[k] + (1 - 0.999) * np.square(g)
            update = m[k] / (np.sqrt(v[k]) + 1e-6)
            if not any(re.search(pattern, names[k]) for pattern in ("LayerNorm", "layer_norm", "bias")):
                update = update + 0.01 * params[k]
            params[k] = params[k] - learning_rate * update
    return params


@pytest.mark.parametrize("optimizer", ["lamb", "adafactor"])
def test_models_without_stacked_layers_are_optimised_too(optimizer):
    """As ELMo, and what is trained on frozen features."""
    params, gradients = {"lstm": jnp.ones((4, 8))}, {"lstm": jnp.full((4, 8), 1e-3)}
    tx = make_optimizer(OptimConfig(optimizer))
    direction, _ = tx.update(gradients, tx.init(params), params)
    assert np.isfinite(direction["lstm"]).all()
    assert (direction["lstm"] > 0).all()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"clip_norm": -1.0}, "clip_norm -1: none of these is negative"),
        ({"peak_lr": -1e-3, "warmup": -5}, "peak_lr -0.001, warmup -5"),
        ({"b2": 1.0}, "b1 0.9 and b2 1 lie in 0 to 1"),
        ({"no_decay": "("}, r"optim.no_decay '\(' is no regular expression"),
    ],
)
def test_numbers_that_cannot_be_meant(bad, said):
    with pytest.raises(UserError, match=said):
        OptimConfig(**bad)


def test_bert_adam_is_the_released_optimizer():
    names = {
        "word_embeddings/embedding": "bert/embeddings/word_embeddings",
        "positions/position/embedding": "bert/embeddings/position_embeddings",
        "embeddings_norm/scale": "bert/embeddings/LayerNorm/gamma",
        "embeddings_norm/bias": "bert/embeddings/LayerNorm/beta",
        "layers/attention/query/kernel": "bert/encoder/layer_0/attention/self/query/kernel",
        "layers/attention/query/bias": "bert/encoder/layer_0/attention/self/query/bias",
        "layers/mlp_norm/scale": "bert/encoder/layer_0/output/LayerNorm/gamma",
        "mlm/bias": "cls/predictions/output_bias",
        "nsp/kernel": "cls/seq_relationship/output_weights",
    }
    rng = np.random.default_rng(0)
    params = {path: rng.standard_normal((3, 4)) for path in names}
    # The norm of a gradient is about 10 times its scale: some are clipped, and some are not.
    gradients = [{path: scale * rng.standard_normal((3, 4)) for path in names} for scale in (1, 0.02, 3, 0.05, 0.01, 1)]
    cfg = OptimConfig("bert_adam", peak_lr=0.1, decay="linear_from_zero", warmup=2)
    tx, schedule = make_optimizer(cfg), make_schedule(cfg, whole_run=10)
    ours = unflatten(jax.tree.map(jnp.float32, params))
    state = tx.init(ours)
    for step, gradient in enumerate(gradients):
        direction, state = tx.update(unflatten(jax.tree.map(jnp.float32, gradient)), state, ours)
        ours = descend(ours, direction, schedule(jnp.float32(step)))
    theirs = bert_steps(params, gradients, names, init_lr=0.1, num_train_steps=10, num_warmup_steps=2)
    for path, value in flatten(ours).items():
        np.testing.assert_allclose(value, theirs[path], rtol=1e-5, atol=1e-5, err_msg=path)


def test_adagrad_is_tensorflows():
    """bilm-tf's: squares added to 1, gradients of 20 times the loss clipped at norm 10, in float64; here the loss is a
    mean, and clip and accumulator are divided instead."""
    rng = np.random.default_rng(0)
    params, gradients = rng.normal(size=(3, 4)), [scale * rng.normal(size=(3, 4)) for scale in (0.01, 1, 0.3)]
    cfg = OptimConfig("adagrad", weight_decay=0.0, clip_norm=10 / 20, initial_accumulator=1 / 20**2)
    tx, ours = make_optimizer(cfg), {"kernel": jnp.float32(params)}
    state, total = tx.init(ours), np.ones((3, 4))
    for gradient in gradients:
        direction, state = tx.update({"kernel": jnp.float32(gradient)}, state, ours)
        ours = descend(ours, direction, 0.2)
        g = 20 * gradient
        g = g / max(np.linalg.norm(g) / 10, 1)
        total += g**2
        params = params - 0.2 * g / np.sqrt(total)
    np.testing.assert_allclose(ours["kernel"], params, rtol=1e-5, atol=1e-6)


def test_tf_adam_is_tensorflows():
    """Its formula in float64: eps stands outside the bias correction, and not inside, as optax has it."""
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 4)), rng.normal(size=(6, 3, 4)) * rng.choice([0.01, 1.0], (6, 3, 4))
    b1, b2, eps, lr = 0.9, 0.99, 0.1, 0.05
    cfg = OptimConfig("tf_adam", b1=b1, b2=b2, eps=eps, weight_decay=0.0, clip_norm=0.0)

    def steps(tx):
        params = {"kernel": jnp.float32(start)}
        state, found = tx.init(params), []
        for gradient in gradients:
            direction, state = tx.update({"kernel": jnp.float32(gradient)}, state, params)
            params = descend(params, direction, lr)
            found.append(params["kernel"])
        return np.array(found)

    p, m, v, expected = start, 0.0, 0.0, []
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        p = p - lr * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
        expected.append(p)
    np.testing.assert_allclose(steps(make_optimizer(cfg)), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(steps(optax.scale_by_adam(b1, b2, eps)) - expected).max() > 0.05


def test_gradients_are_clipped_first_and_decay_comes_last():
    """From zero moments Adam's first direction is the gradient's sign where eps is small beside it, half of it where
    eps equals it; decay is added as it is, whatever the clipping."""
    params, gradient = {"kernel": jnp.full(4, 3.0)}, {"kernel": jnp.full(4, 50.0)}  # norm 100
    cfg = OptimConfig(eps=0.5, weight_decay=0.1, clip_norm=1.0)

    def direction(cfg):
        tx = make_optimizer(cfg)
        return tx.update(gradient, tx.init(params), params)[0]["kernel"]

    np.testing.assert_allclose(direction(cfg), 0.5 / (0.5 + 0.5) + 0.3, rtol=1e-4)
    unclipped = dataclasses.replace(cfg, clip_norm=0.0)
    np.testing.assert_allclose(direction(unclipped), 50 / (50 + 0.5) + 0.3, rtol=1e-4)
    np.testing.assert_allclose(direction(dataclasses.replace(cfg, weight_decay=0.0)), 0.5, rtol=1e-4)
