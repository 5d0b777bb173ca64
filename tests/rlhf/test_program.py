"""The phases of an iteration on rollouts that are given: ratios, keys, padding, minibatches, meshes, mixed-in text."""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.parallel import MeshConfig
from lmjax.rlhf.advantages import KlConfig, ShapingConfig
from lmjax.rlhf.config import PpoConfig, PretrainingConfig
from lmjax.rlhf.networks import NETWORK
from lmjax.rlhf.program import Program, assemble_ppo, minibatches
from lmjax.rlhf.rollout import RolloutConfig, answered, as_text, drawn_prompts, prompt_rows, roll_out
from lmjax.train.optim import OptimConfig
from tests.models.tiny import VOCAB, forward, noisy, tiny
from tests.rlhf.mdp import assert_same, on_devices

# All sorts of dropout, which PPO must not apply.
MODEL = tiny("gpt2", hidden_dropout=0.3, attention_dropout=0.3, embedding_dropout=0.3)
B, P, N, EOS, PAD = 16, 5, 6, 7, 3
PROMPTS = [[11, 12, 13, 14, 15][: 1 + i % P] for i in range(B)]
CFG = PpoConfig(
    prompts="no_file",
    rollout=RolloutConfig(P, N, temperature=0.7, pad_id=PAD),
    shaping=ShapingConfig(whiten_rewards=True),
    kl=KlConfig(0.05, target=1e-3, horizon=B),
    pretraining=PretrainingConfig(0.5, rows=1, length=8),
    iterations=4,
    batch_size=B,
    epochs=2,
    minibatches=2,
    clip=0.1,
    optim=OptimConfig(peak_lr=3e-3, eps=1e-5, weight_decay=0.0, clip_norm=0.0),
    mesh=MeshConfig(data=1),
)
WHITENED_APART = replace(CFG.shaping, whiten_over="minibatch")


@cache
def program(cfg: PpoConfig = CFG, devices: int = 1, model: Any = MODEL) -> Program:
    with on_devices(devices):
        return assemble_ppo(cfg, model, MODEL if cfg.value == "network" else None, EOS, PAD)


def state_of(found: Program, cfg: PpoConfig = CFG) -> Any:
    state = found.init_state()
    if NETWORK in state.params:
        values = {NETWORK: {**noisy(MODEL, ()), "reward": state.params[NETWORK]["reward"]}}
    else:
        values = {"value": jax.tree.map(lambda x: x + 0.1, state.params["value"])}
    params = {**noisy(MODEL, ("clm",)), **values}
    return state.replace(params=jax.device_put(params, jax.tree.map(lambda x: x.sharding, state.params)))


def text() -> dict[str, np.ndarray]:
    """Of two minibatches, which the first model finds as likely, and as unlikely, as can be."""
    tokens = np.random.default_rng(5).integers(0, VOCAB, (2, B // 2, 8)).astype(np.int32)
    logits = [forward(tiny("gpt2"), ("clm",))(noisy(MODEL, ("clm",)), tokens=rows)["logits"] for rows in tokens]
    targets = np.stack([logits[0].argmax(-1), logits[1].argmin(-1)]).astype(np.int32)
    return {"text_tokens": tokens, "text_targets": targets, "text_loss_weights": np.ones(tokens.shape, np.float32)}


TEXT = text()
REFERENCE = jax.tree.map(lambda x: 0.9 * x, noisy(MODEL, ("clm",)))
SCORES = np.random.default_rng(4).normal(size=B).astype(np.float32)


@cache
def given_rows(width: int = P) -> dict[str, Any]:
    """Answers of every length, one of them without an end."""
    rng = np.random.default_rng(2)
    new = rng.integers(20, VOCAB, (B, N)).astype(np.int32)
    for row in range(B):
        new[row, 1 + row % N :] = EOS
    new[0] = 25
    prompts = {k: jnp.asarray(v) for k, v in prompt_rows(PROMPTS, width).items()}
    rows = jax.device_get(answered(prompts, jnp.asarray(new), EOS, PAD))
    return rows | {"sampler_log_probs": -100 * (1 - rows["loss_weights"])}  # behind an answer they mean nothing


def iteration(found: Program, rows: dict[str, Any] | None = None, cuts: int = 2) -> Any:
    """(experience, figures, state after, metrics) of the given rows."""
    with jax.set_mesh(found.mesh):
        state = state_of(found)
        experience, figures = found.score(state, REFERENCE, rows or given_rows(), SCORES)
        experience, figures = jax.device_get((experience, figures))
        text = {name: value.reshape(cuts, -1, *value.shape[2:]) for name, value in TEXT.items()}
        after, metrics = found.update(state, experience, text, figures["kl"])
        return experience, figures, after, jax.device_get(metrics)


@cache
def first() -> Any:
    return iteration(program())


def test_ratios_are_one_at_first_and_not_after():
    """Old log-probabilities are those of the policy that answered: neither stale nor computed anew."""
    _, _, _, metrics = first()
    assert metrics["first_log_ratio"] == 0
    assert metrics["updates"] == 4
    assert metrics["approximate_kl"] > 1e-4
    assert metrics["clip_fraction"] > 0.01
    assert metrics["skipped"] == 0


def test_nothing_drops_out():
    """As if the model knew no dropout, in rollouts too."""
    without = program(model=tiny("gpt2"))
    again = iteration(without)
    for part in (0, 1, 3):
        jax.tree.map(np.testing.assert_array_equal, first()[part], again[part])
    jax.tree.map(np.testing.assert_array_equal, drawn(program(), 0), drawn(without, 0))


def test_what_the_score_phase_measures():
    experience, figures, _, _ = first()
    rows = jax.device_get(given_rows())
    mask = rows["loss_weights"]
    assert figures["score"] == pytest.approx(SCORES.mean(), rel=1e-5)
    assert figures["response_length"] == pytest.approx(mask.sum(1).mean())
    assert figures["eos_share"] == pytest.approx(rows["ended"].mean())
    assert rows["ended"].sum() == B - 3  # row 0, and those of length N
    assert mask.sum(1).tolist() == [N] + [min(2 + row % N, N) for row in range(1, B)]
    own, expected = (plain_log_probs(name) for name in ("policy", "reference"))
    np.testing.assert_allclose(experience["old_log_probs"] * mask, own * mask, atol=1e-4)
    assert figures["sampler_difference"] == pytest.approx(np.abs(own * mask).max(), abs=1e-4)
    kl = (own - expected) * mask
    assert figures["kl"] == pytest.approx(kl.sum(1).mean(), rel=1e-3, abs=1e-4)
    last = mask.sum(1).astype(int) - 1
    expected = -0.05 * kl
    expected[np.arange(B), last] += np.where(rows["ended"], SCORES, -1)
    np.testing.assert_allclose(experience["rewards"], expected, atol=1e-4)


def plain_log_probs(name: str) -> np.ndarray:
    """By the model without padding, one row at a time, at the temperature."""
    params = {"policy": noisy(MODEL, ("clm",)), "reference": REFERENCE}[name]
    rows, found = jax.device_get(given_rows()), np.zeros((B, N), np.float32)
    for row in range(B):
        real = rows["segment_ids"][row] > 0
        text = rows["tokens"][row][real]
        padded = np.zeros((1, P + N), np.int32)
        padded[0, : len(text)] = text
        logits = forward(tiny("gpt2"), ("clm",))(params, tokens=padded)["logits"][0] / 0.7
        log_p = np.asarray(jax.nn.log_softmax(logits))
        start = len(PROMPTS[row])
        for place in range(start, len(text)):
            found[row, place - start] = log_p[place - 1, text[place]]
    return found


def test_what_stands_behind_an_answer_changes_nothing():
    rows = given_rows()
    behind = rows["loss_weights"] == 0
    other = jnp.where(behind, 99, rows["targets"])
    changed = rows | {"targets": other, "tokens": jnp.concatenate([rows["tokens"][:, :P], other], 1)}
    for ours, theirs in zip(first()[1:], iteration(program(), changed)[1:], strict=True):
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                np.testing.assert_array_equal(a, b)


def test_the_width_of_the_padding_changes_nothing():
    wide = replace(CFG, rollout=replace(CFG.rollout, prompt_length=P + 3))
    found = program(wide)
    with jax.set_mesh(found.mesh):
        experience, _ = found.score(state_of(found), REFERENCE, given_rows(P + 3), SCORES)
    for name in ("old_log_probs", "old_values", "advantages", "returns"):
        real = np.asarray(given_rows()["loss_weights"]) > 0
        np.testing.assert_allclose(experience[name][real], first()[0][name][real], rtol=1e-4, atol=1e-5)


SLOWER = replace(CFG.optim, peak_lr=1e-3)  # Adam divides a tiny gradient, and so its rounding, by its own size
NETWORK_CFG = replace(CFG, value="network", shaping=WHITENED_APART, optim=SLOWER)


@pytest.mark.parametrize("cfg", [CFG, NETWORK_CFG], ids=["head", "network"])
def test_an_update_does_not_depend_on_the_devices(cfg: PpoConfig):
    """Rewards and advantages are whitened over all answers, wherever they lie."""
    alone = first() if cfg == CFG else iteration(program(cfg))
    _, figures, after, metrics = iteration(program(replace(cfg, mesh=MeshConfig(2, 2, 2)), devices=8))
    for name, value in figures.items():
        assert value == pytest.approx(alone[1][name], rel=1e-5, abs=1e-5), name
    assert metrics["loss"] == pytest.approx(alone[3]["loss"], abs=1e-5)
    assert_same(after.params, alone[2].params, atol=1e-5)


def test_neither_accumulation_nor_where_one_minibatch_is_whitened_matters():
    """And an iteration ends early: of the three epochs the first one moves the policy, the second one sees it."""
    whole = replace(CFG, minibatches=1, micro_batches=2)
    cut = replace(whole, micro_batches=4, shaping=WHITENED_APART, epochs=3, stop_at_kl=1e-6)
    found = [iteration(program(cfg), cuts=cfg.micro_batches) for cfg in (whole, cut)]
    assert ["advantages" in experience for experience, *_ in found] == [True, False]
    assert_same(*(after.params for _, _, after, _ in found), atol=1e-5)
    assert [metrics["updates"] for *_, metrics in found] == [2, 2]
    assert [int(after.step) for _, _, after, _ in found] == [1, 1]


def test_each_epoch_goes_through_all_rows_in_an_order_of_its_own():
    key = jax.random.key(0)
    orders = [np.asarray(minibatches(CFG, key, i)).reshape(CFG.epochs, B) for i in (0, 1)]
    for order in np.concatenate(orders):
        assert sorted(order) == list(range(B))
    assert len({tuple(order) for order in np.concatenate(orders)}) == 4
    np.testing.assert_array_equal(orders[0], np.asarray(minibatches(CFG, key, 0)).reshape(CFG.epochs, B))
    assert not np.array_equal(orders[0], np.asarray(minibatches(CFG, jax.random.key(1), 0)).reshape(CFG.epochs, B))


def drawn(found: Program, iteration: int, seed: int = 0) -> np.ndarray:
    """Answers of the first policy."""
    with jax.set_mesh(found.mesh):
        prompts = {k: jnp.asarray(v) for k, v in prompt_rows(PROMPTS, P).items()}
        rows = found.roll_out(state_of(found).params, jax.random.key(seed), jnp.int32(iteration), prompts)
    return np.asarray(rows["targets"])


def test_keys_go_on():
    """The same policy answers the same prompts otherwise at each iteration, and so does another seed."""
    found = program()
    np.testing.assert_array_equal(drawn(found, 0), drawn(found, 0))
    assert not np.array_equal(drawn(found, 0), drawn(found, 1))
    assert not np.array_equal(drawn(found, 0), drawn(found, 0, seed=9))


@pytest.mark.parametrize(("devices", "rows"), [(1, 4), (8, 0), (8, 4)])
def test_answers_do_not_depend_on_how_many_are_drawn_at_once_nor_on_the_devices(devices: int, rows: int):
    cfg = replace(CFG, rollout=replace(CFG.rollout, rows=rows))
    found = program(replace(cfg, mesh=MeshConfig(2, 2, 2)) if devices > 1 else cfg, devices)
    np.testing.assert_array_equal(drawn(found, 0), drawn(program(), 0))


def test_each_iteration_cuts_its_minibatches_anew():
    """The same experience, from the same parameters, at another iteration."""
    found = program()
    after = []
    for number in (0, 0, 1):
        with jax.set_mesh(found.mesh):
            state = state_of(found).replace(step=jnp.int32(number))
            after.append(jax.device_get(found.update(state, first()[0], TEXT, jnp.float32(0))[0].params))
    assert_same(after[0], after[1], atol=0)
    with pytest.raises(AssertionError):
        assert_same(after[0], after[2], atol=1e-6)


def test_answers_are_drawn_by_the_kernel_that_runs_anywhere():
    """Whatever the policy is trained by."""
    fused = tiny("gpt2", attention="cudnn")
    prompts = {k: jnp.asarray(v) for k, v in prompt_rows(PROMPTS, P).items()}
    arguments = (RolloutConfig(P, N), EOS, PAD, noisy(MODEL, ("clm",)), prompts, jax.random.key(0))
    found, expected = (roll_out(model, *arguments) for model in (fused, tiny("gpt2")))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_prompts_come_in_passes():
    chosen = np.concatenate([drawn_prompts(7, 3, 0, i) for i in range(14)]).reshape(-1, 7)
    assert all(sorted(one) == list(range(7)) for one in chosen)
    assert len({tuple(one) for one in chosen}) == 6
    np.testing.assert_array_equal(drawn_prompts(7, 3, 0, 5), drawn_prompts(7, 3, 0, 5))
    assert not np.array_equal(drawn_prompts(70, 30, 0, 0), drawn_prompts(70, 30, 1, 0))


def test_the_coefficient_is_adapted_once_an_iteration():
    _, figures, after, _ = first()
    expected = 0.05 * (1.2 if figures["kl"] > 0 else 0.8)
    assert float(after.extra["kl_coefficient"]) == pytest.approx(expected)


def test_answers_end_at_their_first_end_token_that_counts():
    prompts = {k: jnp.asarray(v) for k, v in prompt_rows([[1, 2], [3]], 2).items()}
    new = jnp.array([[9, EOS, 9, EOS], [9, 9, 9, 9]])
    rows = answered(prompts, new, EOS, PAD)
    assert rows["targets"].tolist() == [[9, EOS, PAD, PAD], [9, 9, 9, 9]]
    assert rows["tokens"].tolist() == [[1, 2, 9, EOS, PAD, PAD], [0, 3, 9, 9, 9, 9]]
    assert rows["positions"].tolist() == [[0, 1, 2, 3, 3, 3], [0, 0, 1, 2, 3, 4]]
    assert rows["ended"].tolist() == [True, False]
    assert answered(prompts, new, EOS, PAD, truncate_after=2)["targets"].tolist() == [[9, EOS, 9, EOS], [9, 9, 9, 9]]
    tokens, is_response = as_text(rows, PAD)
    assert tokens.tolist() == [[1, 2, 9, EOS, PAD, PAD], [3, 9, 9, 9, 9, PAD]]
    assert is_response.astype(int).tolist() == [[0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]]


def test_drawing_goes_on_behind_ends_that_do_not_count():
    cfg = RolloutConfig(P, N, truncate_after=N - 1)
    rows = {k: jnp.tile(jnp.asarray(v), (16, 1)) for k, v in prompt_rows(PROMPTS, P).items()}
    found = roll_out(tiny("gpt2", vocab_size=2), cfg, 1, 0, noisy(tiny("gpt2", vocab_size=2), ("clm",)), {
        "tokens": rows["tokens"] % 2, "segment_ids": rows["segment_ids"],
    }, jax.random.key(0))  # fmt: skip
    assert bool(jnp.all(found["loss_weights"] == 1))
    inner = np.asarray(found["targets"])[:, : N - 1]
    assert np.any((inner[:, :-1] == 1) & (inner[:, 1:] == 0))


def test_pretraining_text_is_mixed_into_each_minibatch():
    _, _, _, metrics = first()
    expected = metrics["policy"] + 0.1 * metrics["value"] + 0.5 * metrics["pretraining"]
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    losses = []
    for tokens, targets in zip(TEXT["text_tokens"], TEXT["text_targets"], strict=True):
        logits = forward(tiny("gpt2"), ("clm",))(noisy(MODEL, ("clm",)), tokens=tokens)["logits"]
        losses.append(-np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), targets[..., None], -1).mean())
    assert losses[1] > 1.5 * losses[0]
    assert metrics["pretraining"] == pytest.approx(np.mean(losses), rel=0.1)  # of four updates, two on each


def test_pretraining_text_adds_its_gradient_to_ppos():
    """Beside an eps that dwarfs it, Adam's first step is the gradient itself."""
    optim = OptimConfig(peak_lr=1e6, eps=1e6, weight_decay=0.0, clip_norm=0.0)
    found = program(replace(CFG, epochs=1, minibatches=1, optim=optim))
    rows = {name: value.reshape(1, B, 8) for name, value in TEXT.items()}

    def moved(weight: float) -> Any:
        """What an update takes off the parameters, where the text weighs so much."""
        text = rows | {"text_loss_weights": weight * rows["text_loss_weights"]}
        with jax.set_mesh(found.mesh):
            before = jax.device_get(state_of(found).params)
            after, _ = found.update(state_of(found), first()[0], text, jnp.float32(0))
        return jax.tree.map(np.subtract, before, jax.device_get(after.params))

    def language_model_loss(params: Any) -> Any:
        log_p = jax.nn.log_softmax(forward(tiny("gpt2"), ("clm",))(params, tokens=rows["text_tokens"][0])["logits"])
        return -jnp.take_along_axis(log_p, rows["text_targets"][0][..., None], -1).mean()

    both, ppo = moved(1.0), moved(0.0)
    assert max(np.abs(x).max() for x in jax.tree.leaves(ppo)) > 0.01
    np.testing.assert_array_equal(both.pop("value")["kernel"], ppo.pop("value")["kernel"])
    expected = jax.tree.map(lambda x: 0.5 * x, jax.grad(language_model_loss)(noisy(MODEL, ("clm",))))
    assert max(np.abs(x).max() for x in jax.tree.leaves(expected)) > 0.01
    jax.tree.map(lambda a, b, c: np.testing.assert_allclose(a - b, c, atol=1e-6), both, ppo, expected)


@pytest.mark.parametrize(
    "bad", [{"temperature": 0.0}, {"response_length": 0}, {"truncate_after": -1}, {"truncate_after": 64}, {"rows": -1}]
)
def test_impossible_rollouts(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        RolloutConfig(**bad)
