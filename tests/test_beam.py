"""Beam search against all translations there are, against itself without a cache, and against transformers."""

import itertools
import json
import os
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.beam import Beam, continuations, continue_texts, search, translate
from lmjax.errors import UserError
from lmjax.models.gpt import flush_right
from tests.models.tiny import forward, noisy, tiny

CFG = tiny("marian", eos_token_id=3, max_position_embeddings=64)
HEADS = ("seq2seq",)
PARAMS = noisy(CFG, HEADS)
SOURCES = [[5, 9, 40, 3], [7, 3], [*range(20, 31), 3]]
PEER = Path(__file__).with_name("golden") / "beam.py"


def log_probabilities(cfg, params, source: list[int], text: list[int], length: int) -> np.ndarray:
    """Of the next token after each of `text`, by the whole model anew, [len(text) + 1, V]."""
    tokens = np.array([[cfg.decoder_start_token_id, *text] + [0] * (length - len(text))], np.int32)
    logits = forward(cfg, HEADS)(params, tokens=tokens, encoder_tokens=np.array([source], np.int32))["logits"]
    return np.asarray(jax.nn.log_softmax(logits[0, : len(text) + 1]))


def test_enough_beams_find_the_best_of_all_translations():
    """Three words, an end and padding, which is never chosen; at most three tokens: 40 translations, all counted."""
    cfg = tiny("marian", vocab_size=5, eos_token_id=4)
    params = noisy(cfg, HEADS)
    params["word_embeddings"]["embedding"] *= 3  # probabilities far from equal
    scored = {}
    for n in (1, 2, 3):
        for text in itertools.product(range(1, 4), repeat=n - 1):
            ends = [(4,)] if n < 3 else [(i,) for i in range(1, 5)]
            for end in ends:
                log_p = log_probabilities(cfg, params, [1, 2, 3], list(text + end), 3)
                p = sum(log_p[i, token] for i, token in enumerate(text + end))
                scored[text + end] = {"gnmt": p / ((5 + n) / 6) ** 0.8, "power": p / n**0.8}
    for penalty in ("gnmt", "power"):
        beam = Beam(beams=16, length_penalty=penalty, alpha=0.8, early_stopping="never")
        best, scores = search(cfg, beam, 3, params, jnp.array([[1, 2, 3]]), jnp.ones((1, 3), jnp.int32))
        wanted = sorted(scored, key=lambda text: -scored[text][penalty])
        for rank in range(16):  # texts of all lengths, so that beams have changed places
            np.testing.assert_allclose(scores[0, rank], scored[wanted[rank]][penalty], rtol=1e-5)
        assert tuple(best[0, 0].tolist())[: len(wanted[0])] == wanted[0]


def test_the_score_is_the_log_probability_over_the_penalty_and_one_beam_is_greedy():
    (found, *_), greedy = (translate(CFG, PARAMS, SOURCES, Beam(beams=k, max_extra=4)) for k in (4, 1))
    longest = 16 + 4
    text = [*found.tokens, 3][:longest]
    log_p = log_probabilities(CFG, PARAMS, SOURCES[0], text, longest)
    p = sum(log_p[i, token] for i, token in enumerate(text))
    assert found.score == pytest.approx(p / ((5 + len(text)) / 6) ** 0.6, rel=1e-4)
    text = []
    while len(text) < longest and 3 not in text:
        text.append(1 + int(log_probabilities(CFG, PARAMS, SOURCES[0], text, longest)[-1, 1:].argmax()))
    assert greedy[0].tokens == [token for token in text if token != 3]


GPT = tiny("gpt2", vocab_size=7, max_position_embeddings=64)
PROMPTS, ENDS = [[1, 2, 3, 4], [5], [6, 1, 0]], (4, 6)


@cache
def decoder() -> dict:
    params = noisy(GPT, ("clm",))
    params["word_embeddings"]["embedding"] *= 2
    return params


def test_enough_beams_find_the_best_of_all_continuations():
    """Of prompts of several lengths, read at once: seven words of which two end a text, at most three tokens."""
    beam = Beam(beams=64, max_extra=3, alpha=0.8, early_stopping="never")
    best, scores = continuations(GPT, beam, ENDS, decoder(), *flush_right(PROMPTS))
    for row, prompt in enumerate(PROMPTS):

        @cache
        def next_log_p(text, prompt=prompt):
            tokens = np.array([[*prompt, *text, *[0] * (16 - len(prompt) - len(text))]], np.int32)
            logits = forward(GPT, ("clm",))(decoder(), tokens=tokens)["logits"]
            return np.asarray(jax.nn.log_softmax(logits[0, len(prompt) + len(text) - 1]))

        scored = {}
        for n in (1, 2, 3):
            for text in itertools.product((0, 1, 2, 3, 5), repeat=n - 1):
                for end in ENDS if n < 3 else range(7):
                    p = sum(next_log_p((*text, end)[:i])[token] for i, token in enumerate((*text, end)))
                    scored[*text, end] = p / ((5 + n) / 6) ** 0.8
        wanted = sorted(scored, key=lambda text: -scored[text])[:10]
        np.testing.assert_allclose(scores[row, :10], [scored[text] for text in wanted], rtol=1e-4)
        assert tuple(best[row, 0].tolist()) == (*wanted[0], *[-1] * (3 - len(wanted[0])))
        found = continue_texts(GPT, decoder(), [prompt], beam, ENDS)[0]
        assert tuple(found.tokens) == tuple(token for token in wanted[0] if token not in ENDS)
        assert found.score == pytest.approx(scored[wanted[0]], rel=1e-4)


def test_what_cannot_be_continued_is_one_line():
    with pytest.raises(UserError, match="a prompt is empty"):
        continue_texts(GPT, {}, [[]], Beam(), ())
    with pytest.raises(UserError, match="length 65 exceeds the position table"):
        continue_texts(GPT, {}, [[1] * 15], Beam(), ())


def plain_search(next_log_p, cfg, beam: Beam, longest: int) -> list[tuple[float, tuple[int, ...]]]:
    """One row by lists: the finished translations and their scores, best first. `next_log_p(text)` is a list [V]."""
    going, done = [(0.0, ())], []
    for n in range(1, longest + 1):
        found = [(p + q, (*text, token)) for p, text in going for token, q in enumerate(next_log_p(text))]
        found = sorted((f for f in found if f[1][-1] != cfg.decoder_start_token_id), reverse=True)[: 2 * beam.beams]
        ended = [n == longest or text[-1] == cfg.eos_token_id for _, text in found]
        best = zip(found[: beam.beams], ended, strict=False)
        done += [(float(beam.score(p, n)), text) for (p, text), end in best if end]
        done = sorted(done, reverse=True)[: beam.beams]
        going = [f for f, end in zip(found, ended, strict=True) if not end][: beam.beams]
        if len(done) == beam.beams and going:
            hope = float(beam.score(going[0][0], longest if beam.early_stopping == "never" else n))
            if beam.early_stopping == "first_finished" or hope <= done[-1][0]:
                break
    return done


def test_early_stopping_ends_the_search_where_it_says():
    """Against lists, on rows where each of the three finds something else; long translations are favoured."""
    cfg = tiny("marian", vocab_size=6, eos_token_id=5)
    params, longest = noisy(cfg, HEADS), 8
    params["word_embeddings"]["embedding"] *= 2
    sources = np.random.default_rng(0).integers(1, 5, (8, 4)).astype(np.int32)
    next_log_p = [
        cache(lambda text, source=source: log_probabilities(cfg, params, source, list(text), longest)[-1].tolist())
        for source in sources
    ]
    found = {}
    for stopping in ("first_finished", "heuristic", "never"):
        beam = Beam(2, "power", 1.5, stopping)
        best, scores = search(cfg, beam, longest, params, jnp.asarray(sources), jnp.ones((8, 4), jnp.int32))
        found[stopping] = np.asarray(scores)
        for row, known in enumerate(next_log_p):
            wanted = plain_search(known, cfg, beam, longest)
            np.testing.assert_allclose(scores[row], [score for score, _ in wanted], rtol=1e-4)
            for text, (_, right) in zip(best[row].tolist(), wanted, strict=True):
                assert tuple(text[: len(right)]) == right
    for one, other in itertools.combinations(found, 2):
        assert (np.abs(found[one] - found[other]) > 1e-3).any(1).sum() > 1, (one, other)


def test_neighbours_and_padding_change_nothing():
    together = translate(CFG, PARAMS, SOURCES, Beam(max_extra=4))
    for source, found in zip(SOURCES, together, strict=True):
        (alone,) = translate(CFG, PARAMS, [source], Beam(max_extra=4), batch_size=2)
        assert alone.tokens == found.tokens
        assert alone.score == pytest.approx(found.score, rel=1e-5)
    assert len({round(found.score, 3) for found in together}) == len(SOURCES)  # the sources tell


@pytest.mark.parametrize("bad", [{"beams": 0}, {"max_extra": 0}])
def test_impossible_searches(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        Beam(**bad)


def test_what_cannot_be_translated_is_one_line():
    with pytest.raises(UserError, match=r"GptConfig has clm; use generate"):
        translate(tiny("gpt2"), {}, SOURCES, Beam())
    with pytest.raises(UserError, match="a source is empty"):
        translate(CFG, PARAMS, [[]], Beam())
    with pytest.raises(UserError, match="length 66 exceeds the position table"):
        translate(tiny("marian", position_embedding="learned"), PARAMS, SOURCES, Beam())


# (length_penalty, early_stopping) of transformers, and our names
SEARCHES = [
    ((0.6, False), "heuristic"),
    ((1.5, True), "first_finished"),
    ((2.0, "never"), "never"),
    ((0.0, False), "heuristic"),
]


@pytest.mark.parity
def test_beams_are_those_of_transformers(run_peer, tmp_path):
    """Where two of its scores lie within 1e-4 the order may differ, and the scores alone are compared."""
    import lmjax

    seed = int.from_bytes(os.urandom(2))
    print(f"seed {seed}")
    searches = json.dumps([search for search, _ in SEARCHES])
    found = run_peer(PEER, {"seed": np.array(seed), "searches": np.array(searches)}, str(tmp_path / "marian"))
    lm, compared = lmjax.load(tmp_path / "marian"), 0
    for number, ((alpha, _), stopping) in enumerate(SEARCHES):
        beam = Beam(4, "power", alpha, stopping)
        best, scores = search(lm.config, beam, 26, lm.params, jnp.asarray(found["tokens"]), jnp.asarray(found["mask"]))
        theirs = found[f"{number}/scores"]
        np.testing.assert_allclose(scores, theirs, rtol=0, atol=1e-4)
        for row in range(len(theirs)):
            gaps = np.abs(np.diff(theirs[row]))
            for rank in range(4):
                if min(gaps[max(rank - 1, 0) : rank + 1], default=1) > 1e-4:
                    wanted = found[f"{number}/best"][row, rank, 1:].tolist()
                    ours = best[row, rank].tolist()
                    wanted, ours = (text[: text.index(3)] if 3 in text else text for text in (wanted, ours))
                    assert ours == wanted, (number, row, rank)
                    compared += 1
    assert compared > 40
