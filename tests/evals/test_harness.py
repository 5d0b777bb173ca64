"""The adapter, by the harness itself where it is installed, else by a stand-in for its base class."""

import sys
from collections import namedtuple
from types import ModuleType

import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.evals.scoring import Request, score
from lmjax.generate import Sampling, generate
from lmjax.interop import LanguageModel
from tests.models.tiny import noisy, tiny
from tests.tiny_runs import tiny_tokenizer

Instance = namedtuple("Instance", "args")


@pytest.fixture
def harness(monkeypatch):
    try:
        import lm_eval.api.model  # noqa: F401
    except ImportError:
        stub = ModuleType("lm_eval.api.model")
        stub.LM = object  # pyright: ignore[reportAttributeAccessIssue]
        for name in ("lm_eval", "lm_eval.api"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, stub.__name__, stub)
        monkeypatch.delitem(sys.modules, "lmjax.evals.harness", raising=False)
    from lmjax.evals import harness

    return harness


@pytest.fixture
def lm():
    tokenizer = tiny_tokenizer("byte_bpe")
    cfg = tiny("gpt2", vocab_size=tokenizer.vocab_size, max_position_embeddings=48)
    return LanguageModel(cfg, ("clm",), noisy(cfg, ("clm",)), tokenizer)


def test_log_likelihoods(harness, lm):
    encode, eos = lm.tokenizer.encode, lm.tokenizer.eos_id
    (a, b) = harness.HarnessModel(lm, 4).loglikelihood([Instance(("The dog", " barked")), Instance(("", "A river"))])
    expected = score(lm, [Request(encode("The dog"), encode(" barked")), Request([eos], encode("A river"))])
    np.testing.assert_allclose([a[0], b[0]], [one.log_probabilities.sum() for one in expected], rtol=1e-5)
    assert [a[1], b[1]] == [False, False]


def test_rolling_log_likelihoods_score_each_token_once(harness, lm):
    short, long = "The dog barked.", "Nobody knows why the postman ran away. " * 9
    found = harness.HarnessModel(lm, 4).loglikelihood_rolling([Instance((short,)), Instance((long,))])
    eos = lm.tokenizer.eos_id
    for text, value in zip((short, long), found, strict=True):
        ids = lm.tokenizer.encode(text)
        cut = [Request([eos], ids[:48])] + [
            Request(ids[i - 48 + len(ids[i : i + 48]) - 1 : i], ids[i : i + 48]) for i in range(48, len(ids), 48)
        ]
        assert sum(len(one.continuation) for one in cut) == len(ids)
        expected = sum(one.log_probabilities.sum() for one in score(lm, cut))
        assert value == pytest.approx(expected, rel=1e-5)
    assert len(ids) > 96


def test_generated_text_ends_before_a_stop(harness, lm):
    options = {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": False, "temperature": 0.0}
    prompts = ["The dog", "A river " * 60, ""]
    model = harness.HarnessModel(lm, 2)
    found = model.generate_until([Instance((prompt, options)) for prompt in prompts])
    # Of the long prompt the end is read, of the empty one the token that begins a text.
    ids = [lm.tokenizer.encode("The dog"), lm.tokenizer.encode(prompts[1])[-40:], [lm.tokenizer.eos_id]]
    new = generate(lm.config, lm.params, ids, Sampling(8, temperature=0.0), eos_id=lm.tokenizer.eos_id)
    assert found == [lm.tokenizer.decode(one).partition("\n\n")[0] for one in new]
    assert found[0]
    stop = found[0][2:4]
    cut = model.generate_until([Instance((prompts[0], options | {"until": stop}))])
    assert cut == [found[0].partition(stop)[0]]
    with pytest.raises(UserError, match="48 new tokens leave no room"):
        model.generate_until([Instance(("x", options | {"max_gen_toks": 48}))])


def test_an_encoder_is_refused(harness):
    with pytest.raises(UserError, match="BertConfig: the harness needs a causal model"):
        harness.HarnessModel(LanguageModel(tiny("bert"), ("mlm",), {}, None))
