"""Log-probabilities against transformers' own, in batches of any size; windows and rules against hand-made values."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.evals import scoring
from lmjax.evals.scoring import RULES, Request, Score, begun, padded_length, score, split, windows
from lmjax.interop import LanguageModel, load
from lmjax.models import MODELS, weights
from lmjax.models.architecture import abstract_params
from tests.models.tiny import noisy, tiny
from tests.tiny_runs import tiny_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
TOKENIZER = tiny_tokenizer("byte_bpe")


@pytest.fixture(scope="module")
def bert():
    tokenizer = tiny_tokenizer("wordpiece")
    cfg = tiny("bert", vocab_size=tokenizer.vocab_size)
    return LanguageModel(cfg, ("mlm",), noisy(cfg, ("mlm",)), tokenizer)


def assert_scores(lm, requests, expected, atol):
    """The same in one batch, in several, and in batches of one; other rows and paddings change nothing."""
    for batch_size in (16, 3, 1):
        found = score(lm, requests, batch_size)
        for one, log_p in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.log_probabilities, log_p, rtol=0, atol=atol)


def test_log_probabilities_are_those_of_the_golden_gpt2():
    with np.load(GOLDEN / "gpt2.npz", allow_pickle=False) as file:
        found = dict(file)
    cfg = MODELS["gpt2"].from_hf(json.loads(str(found["config"])))
    tensors = {k.removeprefix("weights/"): v for k, v in found.items() if k.startswith("weights/")}
    params = weights.from_hf(
        MODELS["gpt2"].weights(cfg), tensors, abstract_params(MODELS["gpt2"], cfg, ("clm",)), cfg.vocab_size
    )
    lm, requests, expected, greedy = LanguageModel(cfg, ("clm",), params, None), [], [], []
    for tokens, mask, logits in zip(
        found["batches/input_ids"][0],
        found["batches/attention_mask"][0],
        found["logits"].astype(np.float64),
        strict=True,
    ):
        length = mask.sum()
        log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        for context in (1, length - 1):
            requests.append(Request(tokens[:context].tolist(), tokens[context:length].tolist()))
            expected.append(log_p[np.arange(context, length) - 1, tokens[context:length]])
        likeliest = int(logits[length - 2].argmax())  # a continuation that is foreseen
        requests.append(Request(tokens[: length - 1].tolist(), [likeliest]))
        expected.append(log_p[length - 2, [likeliest]])
    assert_scores(lm, requests, expected, atol=1e-5)
    greedy = [one.greedy for one in score(lm, requests)]
    assert greedy[2::3] == [True] * 4
    assert not any(greedy[0::3])


@pytest.mark.parity
def test_log_probabilities_are_those_of_transformers(run_peer, tmp_path):
    """A row that ends where the position table ends, and one that loses its beginning, too."""
    seed = int.from_bytes(os.urandom(2))
    print(f"seed {seed}")
    found = run_peer(GOLDEN / "scores.py", {"seed": np.array(seed)}, str(tmp_path / "gpt2"))
    count = sum(name.startswith("contexts/") for name in found)
    requests = [Request(found[f"contexts/{i}"].tolist(), found[f"continuations/{i}"].tolist()) for i in range(count)]
    expected = [found[f"log_probabilities/{i}"] for i in range(count)]
    lm = load(tmp_path / "gpt2")
    worst = max(np.abs(a.log_probabilities - b).max() for a, b in zip(score(lm, requests), expected, strict=True))
    print(f"log-probabilities differ by at most {worst:.1e} a token")
    assert_scores(lm, requests, expected, atol=1e-4)
    cut = score(lm, [Request([7] * 20 + requests[4].context, requests[4].continuation)])[0]
    np.testing.assert_allclose(cut.log_probabilities, expected[4], rtol=0, atol=1e-4)


def test_an_encoder_hides_one_token_at_a_time(bert):
    tokenizer = bert.tokenizer
    request = Request(tokenizer.encode("the dog"), tokenizer.encode("ran away"))
    (found,) = score(bert, [request])
    text = [tokenizer.cls_id, *request.context, *request.continuation, tokenizer.sep_id]
    expected = []
    for place in range(1 + len(request.context), len(text) - 1):
        hidden = np.array([text])
        hidden[0, place] = tokenizer.mask_id
        expected.append(jax.nn.log_softmax(bert(tokens=hidden)["logits"][0, place])[text[place]])
    np.testing.assert_allclose(found.log_probabilities, expected, rtol=0, atol=1e-5)


def test_few_programs_serve_all_lengths():
    assert [padded_length(n, 100) for n in (1, 32, 33, 64, 65, 100)] == [32, 32, 64, 64, 100, 100]
    cfg = tiny("gpt2", max_position_embeddings=40)
    lm = LanguageModel(cfg, ("clm",), noisy(cfg, ("clm",)), None)
    before = scoring._statistics._cache_size()
    score(lm, [Request([1] * n, [2] * m) for n in range(1, 20) for m in range(1, 20, 3)], batch_size=64)
    assert scoring._statistics._cache_size() == before + 2


def test_barred_tokens_stand_in_nobodys_way_but_at_the_first_place():
    cfg = tiny("gpt2", max_position_embeddings=40)
    lm = LanguageModel(cfg, ("clm",), noisy(cfg, ("clm",)), None)

    def ranked(text):  # behind it, the likeliest first; what stands behind is not seen
        tokens = np.array([[*text, *[0] * (39 - len(text))]])
        return np.argsort(-np.asarray(lm(tokens=tokens)["logits"][0, len(text) - 1])).tolist()

    first = ranked([5, 7])
    second = ranked([5, 7, first[2]])
    right, late = Request([5, 7], [first[2], second[0]]), Request([5, 7], [first[2], second[1]])
    assert [s.greedy for s in score(lm, [right, late])] == [False, False]
    assert [s.greedy for s in score(lm, [right, late], barred=first[:2])] == [True, False]
    assert [s.greedy for s in score(lm, [right, late], barred=[*first[:2], second[0]])] == [
        second[0] != first[2],
        False,
    ]
    assert not score(lm, [Request([5, 7], first[:1])], barred=first[:1])[0].greedy
    plain, barred = (score(lm, [right], barred=ids)[0].log_probabilities for ids in ((), first[:2]))
    np.testing.assert_array_equal(plain, barred)


@pytest.mark.parametrize(
    ("context", "continuation"),
    [("The dog", " barked at"), ("The dog ", "barked at"), ("The d", "og"), ("", "The dog")],
)
def test_a_text_is_cut_between_tokens(context, continuation):
    (found,) = split(TOKENIZER, [(context, continuation)])
    assert [*found.context, *found.continuation] == TOKENIZER.encode(context + continuation)
    assert (context + continuation).startswith(TOKENIZER.decode(found.context))
    assert TOKENIZER.decode(found.continuation).strip().endswith(continuation.strip())


def test_the_end_of_a_text_stands_before_what_begins_one(bert):
    cfg = tiny("gpt2", vocab_size=TOKENIZER.vocab_size)
    lm = LanguageModel(cfg, ("clm",), {}, TOKENIZER)
    assert begun(lm, Request([], [5])) == Request([TOKENIZER.eos_id], [5])
    assert begun(lm, Request([7], [5])) == Request([7], [5])
    assert begun(bert, Request([], [5])) == Request([], [5])
    words = LanguageModel(tiny("openai-gpt"), ("clm",), {}, tiny_tokenizer("bpe"))
    with pytest.raises(UserError, match="no token for the beginning"):
        begun(words, Request([], [5]))


@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 3), (8, 1), (100, 50)])
def test_windows_score_each_token_once(length, stride):
    tokens = list(range(1, 31))
    found = list(windows(tokens, 0, length, stride))
    assert [token for request in found for token in request.continuation] == tokens
    for request in found:
        text = [*request.context, *request.continuation]
        assert text == list(range(text[0], text[0] + len(text)))
        assert len(text) <= length + 1
    assert found[0].context == [0]
    assert all(len(r.continuation) <= stride and len(r.context) >= length - stride + 1 for r in found[1:])


def test_rules():
    one = Score(np.array([-1.0, -2.0, -3.0], np.float32), False)
    found = {name: rule(one, "naïve", -5.0) for name, rule in RULES.items()}
    expected = {"sum": -6.0, "per_token": -2.0, "per_character": -1.2, "per_byte": -1.0, "unconditional": -1.0}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("family", "heads", "request_", "complaint"),
    [
        ("gpt2", ("clm",), Request([], [1]), "nothing stands before"),
        ("gpt2", ("clm",), Request([1], []), "a text to score is empty"),
        ("gpt2", ("clm",), Request([1], [1] * 17), "longer than the model's 16 positions"),
        ("bert", ("mlm",), Request([1], [1] * 15), "longer than the model's 16 positions"),
        ("marian", ("seq2seq",), Request([1], [1]), "TransformerConfig: this model gives no probabilities"),
    ],
)
def test_what_cannot_be_scored(family, heads, request_, complaint):
    with pytest.raises(UserError, match=complaint):
        score(LanguageModel(tiny(family), heads, {}, None), [request_])
