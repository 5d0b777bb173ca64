"""What only BERT has: masked positions, sentence types, the pooler and its next-sentence logits, its initialiser."""

import jax
import numpy as np
import pytest

from lmjax.models import bert
from lmjax.models.architecture import init_params, model_inputs
from tests.models.tiny import VOCAB, forward, noisy, random_batch, tiny

pytestmark = pytest.mark.core

CFG, HEADS = tiny("bert"), ("mlm", "nsp")


def _run(**changes):
    batch = {k: v for k, v in (random_batch("bert", 3, 12) | changes).items() if v is not None}
    outputs = forward(CFG, HEADS)(noisy(CFG, HEADS), **model_inputs(bert.ARCHITECTURE, batch))
    return {name: np.asarray(value) for name, value in outputs.items()}


def test_masked_positions_are_rows_of_the_whole_and_types_are_0_where_absent():
    positions = np.array([[0, 5, 5], [3, 2, 1], [11, 0, 7]], np.int32)
    some = _run(mlm_positions=positions, token_type_ids=np.zeros((3, 12), np.int32))
    everywhere = _run(mlm_positions=None, token_type_ids=None)
    assert everywhere["logits"].shape == (3, 12, VOCAB)
    wanted = np.take_along_axis(everywhere["logits"], positions[..., None], 1)
    np.testing.assert_allclose(some["logits"], wanted, atol=2e-5)


def test_sentence_types_are_seen():
    types = np.zeros((3, 12), np.int32)
    assert np.abs(_run(token_type_ids=types)["logits"] - _run(token_type_ids=types + 1)["logits"]).max() > 0.1


def test_pooler_and_next_sentence_logits_read_the_first_token():
    outputs, params = _run(), noisy(CFG, HEADS)
    pooled = np.tanh(outputs["hidden"][:, 0] @ params["pooler"]["kernel"] + params["pooler"]["bias"])
    np.testing.assert_allclose(outputs["pooled"], pooled, atol=1e-5)
    logits = pooled @ params["nsp"]["kernel"] + params["nsp"]["bias"]
    np.testing.assert_allclose(outputs["next_sentence_logits"], logits, atol=1e-5)


@pytest.mark.parametrize(
    ("heads", "more"),
    [
        ((), set()),
        (("mlm",), {"logits"}),
        (("pooler",), {"pooled"}),
        (("nsp",), {"pooled", "next_sentence_logits"}),
    ],
)
def test_heads_give_what_they_say(heads, more):
    outputs = jax.eval_shape(forward(CFG, heads), noisy(CFG, heads), tokens=np.zeros((3, 12), np.int32))
    assert outputs.keys() == {"hidden"} | more


def test_initialiser_is_the_originals_truncated_normal():
    """TensorFlow's truncated_normal_initializer(0.02): cut at two standard deviations, which leaves 0.88 of 0.02."""
    init = jax.jit(lambda key: init_params(bert.ARCHITECTURE, CFG, (), key))
    params = init(jax.random.key(0, impl="rbg"))
    for values in (params["word_embeddings"]["embedding"][:VOCAB], params["layers"]["mlp"]["up"]["kernel"]):
        assert np.abs(values).max() <= 0.04
        assert np.std(values) == pytest.approx(0.0176, rel=0.05)
    assert (params["layers"]["mlp"]["up"]["bias"] == 0).all()
    assert (params["embeddings_norm"]["scale"] == 1).all()
    up = params["layers"]["mlp"]["up"]["kernel"]
    assert np.abs(up[0] - up[1]).max() > 0.01  # each layer draws its own
