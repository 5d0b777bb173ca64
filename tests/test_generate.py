"""Cached decoding against the uncached model, and what is drawn against exact probabilities."""

import os
import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.generate import Sampling, continue_rows, draw, generate, log_probability, next_token_logits
from lmjax.models.architecture import ModelConfig
from lmjax.models.gpt import flush_right
from lmjax.types import Params
from tests.models.tiny import forward, noisy, tiny

CFG = tiny("gpt2", max_position_embeddings=64)
PARAMS = noisy(CFG, ("clm",))
PROMPTS = [[5, 7, 11, 2], [3], list(range(40, 60))]
GREEDY = Sampling(12, temperature=0)
PEER = Path(__file__).with_name("golden") / "generate.py"


def uncached(prompt: list[int], count: int, cfg: ModelConfig = CFG, params: Params = PARAMS) -> list[int]:
    """Greedy decoding by running the whole text anew for each token."""
    tokens = list(prompt)
    for _ in range(count):
        padded = np.array([tokens + [0] * (64 - len(tokens))], np.int32)  # what comes later is never seen
        logits = forward(cfg, ("clm",))(params, tokens=padded)["logits"]
        tokens.append(int(logits[0, len(tokens) - 1].argmax()))
    return tokens[len(prompt) :]


def test_greedy_is_the_argmax_of_the_uncached_model():
    found = generate(CFG, PARAMS, PROMPTS, GREEDY)
    assert found == [uncached(prompt, 12) for prompt in PROMPTS]
    assert len({tuple(row) for row in found}) == 3


@pytest.mark.parametrize("family", ["gpt3", "openai-gpt"])
def test_so_it_is_in_the_other_decoders(family):
    """GPT-3's bands of 3 tokens end within the prompts and pass over their padding."""
    cfg = tiny(family, max_position_embeddings=64)
    params = noisy(cfg, ("clm",))
    found = generate(cfg, params, PROMPTS, GREEDY)
    assert found == [uncached(prompt, 12, cfg, params) for prompt in PROMPTS]
    assert len({tuple(row) for row in found}) == 3


def test_drawing_a_token_copies_no_cache():
    """In XLA's program of the loop over tokens every array of a cache's shape is one that is written to in place."""
    tokens, real = flush_right([[5, 7], [3]], 8)
    drawn = continue_rows.lower(CFG, Sampling(12), jnp.int32(-1), PARAMS, tokens, real, jax.random.key(0)).compile()
    of_a_cache = re.findall(r"= f32\[2,4,20,8\]\S* ([\w-]+)\(.*op_name=\"\S*/while/body/", drawn.as_text())
    assert of_a_cache.count("dynamic-update-slice") == 2 * CFG.num_hidden_layers
    assert set(of_a_cache) <= {"dynamic-update-slice", "fusion", "parameter", "get-tuple-element"}, of_a_cache


def test_rows_end_before_the_end_token():
    rows = generate(CFG, PARAMS, PROMPTS, GREEDY)
    eos = rows[0][4]
    cut = [row[: row.index(eos)] if eos in row else row for row in rows]
    assert generate(CFG, PARAMS, PROMPTS, GREEDY, eos_id=eos) == cut
    assert len(cut[0]) <= 4 < max(map(len, cut))


def test_a_row_that_has_ended_writes_nothing_more():
    alone = generate(CFG, PARAMS, PROMPTS[:1], GREEDY)[0]
    eos = alone[4]
    tokens_BP = np.zeros((1, 32), np.int32)
    tokens_BP[0, -4:] = PROMPTS[0]
    segment_ids_BP = (np.arange(32)[None] >= 28).astype(np.int32)
    new_BN, _ = continue_rows(CFG, GREEDY, jnp.int32(eos), PARAMS, tokens_BP, segment_ids_BP, jax.random.key(0))
    end = alone.index(eos)
    assert new_BN[0].tolist() == alone[:end] + [eos] * (12 - end)
    assert any(token != eos for token in alone[end:])


def test_each_step_draws_anew():
    uniform = jax.tree.map(jnp.zeros_like, PARAMS)
    for row in generate(CFG, uniform, [[1]] * 3, Sampling(12)):
        assert len(set(row)) > 6


def test_the_seed_decides_and_neighbours_do_not():
    sampling = Sampling(12, temperature=0.9, top_k=50, top_p=0.95)
    first, second = generate(CFG, PARAMS, PROMPTS[:2], sampling, seed=3)
    assert [first, second] == generate(CFG, PARAMS, PROMPTS[:2], sampling, seed=3)
    assert [first, second] != generate(CFG, PARAMS, PROMPTS[:2], sampling, seed=4)
    assert first == generate(CFG, PARAMS, [PROMPTS[0], PROMPTS[2]], sampling, seed=3)[0]
    assert second == generate(CFG, PARAMS, [PROMPTS[2], PROMPTS[1]], sampling, seed=3)[1]
    one, another = generate(CFG, PARAMS, [PROMPTS[0]] * 2, sampling, seed=3)
    assert one != another


def expected_probabilities(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """By hand: temperature, then the k likeliest, then the fewest likeliest that reach p."""
    p = np.exp(logits / sampling.temperature)
    p /= p.sum()
    order = np.argsort(-p)
    kept = order[: sampling.top_k or None]
    kept = kept[: np.searchsorted(np.cumsum(p[kept]) / p[kept].sum(), sampling.top_p - 1e-6) + 1]
    return np.where(np.isin(np.arange(len(p)), kept), p, 0) / p[kept].sum()


CHOICES = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.5),
    Sampling(temperature=2.0, top_k=5),
    Sampling(temperature=1.0, top_p=0.7),
    Sampling(temperature=1.5, top_k=8, top_p=0.8),
]


@pytest.mark.parametrize("sampling", CHOICES, ids=str)
def test_draws_follow_the_exact_probabilities(sampling):
    """Of 11 tokens: they are drawn by groups, of which the last is not full."""
    draws = 20_000
    logits = np.random.default_rng(1).normal(size=11).astype(np.float32) * 1.5
    p = expected_probabilities(logits, sampling)
    np.testing.assert_allclose(
        jax.nn.softmax(next_token_logits(jnp.asarray(logits)[None], sampling))[0], p, rtol=1e-5, atol=1e-7
    )
    keys = jax.random.split(jax.random.key(0), draws)
    rows = jnp.broadcast_to(jnp.asarray(logits)[None], (draws, 11))
    tokens = draw(rows, sampling, keys)
    np.testing.assert_allclose(log_probability(rows, sampling, tokens), np.log(p[np.asarray(tokens)]), atol=1e-5)
    counts = np.bincount(tokens, minlength=11)
    assert not counts[p == 0].any()
    chi2 = ((counts - draws * p) ** 2 / (draws * p + (p == 0))).sum()
    assert chi2 < 2 * (p > 0).sum() + 20  # beyond the 0.9999 quantile for up to 10 degrees of freedom


def test_what_is_drawn_at_a_step_is_the_models_own_distribution():
    rows, sampling = 2000, Sampling(2, temperature=0.7, top_k=4)
    found = np.array(generate(CFG, PARAMS, [PROMPTS[0]] * rows, sampling))
    for step in (0, 1):
        first = np.bincount(found[:, 0]).argmax()
        prompt = PROMPTS[0] + [int(first)] * step
        padded = np.array([prompt + [0] * (64 - len(prompt))], np.int32)
        logits = np.asarray(forward(CFG, ("clm",))(PARAMS, tokens=padded)["logits"][0, len(prompt) - 1])
        p = expected_probabilities(logits, sampling)
        drawn = found[:, 0] if step == 0 else found[found[:, 0] == first, 1]
        counts = np.bincount(drawn, minlength=len(p))
        assert not counts[p == 0].any()
        chi2 = ((counts - len(drawn) * p) ** 2 / (len(drawn) * p + (p == 0))).sum()
        assert chi2 < 22  # the 0.9999 quantile of 3 degrees of freedom


def test_ties_at_the_border_stay_and_one_token_always_does():
    logits = jnp.asarray([[2.0, 1.0, 1.0, 0.0]])
    kept = next_token_logits(logits, Sampling(top_k=2))[0] > -np.inf
    assert kept.tolist() == [True, True, True, False]
    kept = next_token_logits(logits, Sampling(top_p=1e-6))[0] > -np.inf
    assert kept.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("prompts", "sampling", "complaint"),
    [
        ([[1], []], Sampling(4), "a prompt is empty"),
        ([], Sampling(4), "a prompt is empty"),
        ([[1] * 61], Sampling(4), "a prompt of 61 tokens and 4 new ones exceed the position table"),
    ],
)
def test_prompts_that_cannot_be_continued(prompts, sampling, complaint):
    with pytest.raises(UserError, match=complaint):
        generate(CFG, PARAMS, prompts, sampling)


@pytest.mark.parametrize("bad", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}])
def test_impossible_sampling(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        Sampling(**bad)


def test_a_masked_language_model_cannot_generate():
    cfg = tiny("bert")
    with pytest.raises(UserError, match=r"BertConfig.*fill-mask"):
        generate(cfg, noisy(cfg, ("mlm",)), [[1]], GREEDY)


@pytest.mark.parity
def test_greedy_text_and_what_is_drawn_from_equal_transformers(run_peer, tmp_path):
    """The first tokens, drawn 1,000 times each, against the probabilities of transformers' warpers (chi-square)."""
    import lmjax

    seed = int.from_bytes(os.urandom(2))
    print(f"seed {seed}")
    sampling = np.array([[choice.temperature, choice.top_k, choice.top_p] for choice in CHOICES])
    found = run_peer(PEER, {"seed": np.array(seed), "sampling": sampling}, str(tmp_path / "gpt2"))
    prompts = [row[mask == 1].tolist() for row, mask in zip(found["tokens"], found["mask"], strict=True)]
    lm = lmjax.load(tmp_path / "gpt2")
    assert generate(lm.config, lm.params, prompts, Sampling(20, temperature=0)) == found["new"].tolist()
    draws = 1000
    rows = [prompt for prompt in prompts for _ in range(draws)]
    for choice, probabilities in zip(CHOICES, found["probabilities"].astype(np.float64), strict=True):
        drawn = np.array(generate(lm.config, lm.params, rows, replace(choice, max_new_tokens=1), seed=seed))
        for p, tokens in zip(probabilities, drawn.reshape(len(prompts), draws), strict=True):
            counts = np.bincount(tokens, minlength=len(p))
            assert not counts[p == 0].any()
            often = draws * p >= 5
            expected = np.append(draws * p[often], draws * p[~often].sum() + 1e-9)
            chi2 = ((np.append(counts[often], counts[~often].sum()) - expected) ** 2 / expected).sum()
            assert chi2 < len(expected) + 5 * np.sqrt(2 * len(expected)) + 12
