"""Targets one further, and segments that a model needs to read a packed document as if it stood alone."""

from types import SimpleNamespace

import numpy as np
import pytest

from lmjax.data.shifting import document_segments, next_token_targets
from lmjax.data.tf import tensorflow
from lmjax.errors import UserError
from lmjax.tasks import make_task
from lmjax.tasks.pretraining import ClmConfig
from tests.models.tiny import VOCAB, forward, noisy, tiny

END = 7


def test_targets_stand_one_further():
    tokens = tensorflow().constant(np.arange(10, dtype=np.int32).reshape(2, 5))
    found = {name: value.numpy() for name, value in next_token_targets({"tokens": tokens}, None).items()}
    assert found["tokens"].tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert found["targets"].tolist() == [[1, 2, 3, 4], [6, 7, 8, 9]]
    assert found["loss_weights"].all()


def test_a_document_ends_with_its_end_token():
    tokens = np.array([[1, 2, END, 3, END, END, 4], [END, 1, 1, 1, 1, 1, END]], np.int32)
    wanted = [[1, 1, 1, 2, 2, 3, 4], [1, 2, 2, 2, 2, 2, 2]]
    assert document_segments(tokens, END).numpy().tolist() == wanted


@pytest.mark.parametrize("family", ["gpt2", "gpt3"])
def test_behind_a_wall_a_document_is_read_as_if_alone(family):
    """At the positions that it has in the row. Without walls it is another document for what stands before it."""
    cfg, heads, begin, end = tiny(family), ("clm",), 5, 12
    tokens = np.random.default_rng(0).integers(8, VOCAB, (2, 17)).astype(np.int32)
    tokens[:, [begin - 1, end - 1]] = END
    task = make_task(ClmConfig(document_walls=True))
    transform = task.transform(None, SimpleNamespace(eos_id=END))
    packed = {k: v.numpy() for k, v in transform({"tokens": tensorflow().constant(tokens)}, None).items()}
    declared = {k: (v.shape, v.dtype) for k, v in task.features(2, 16, None).items() if k != "example_weights"}
    assert {k: (v.shape, v.dtype) for k, v in packed.items()} == declared
    run, params = forward(cfg, heads), noisy(cfg, heads)
    inputs = {name: packed[name] for name in ("tokens", "segment_ids")}
    positions = np.broadcast_to(np.arange(begin, end, dtype=np.int32), (2, end - begin))
    alone = run(params, tokens=tokens[:, begin:end], positions=positions)["logits"]
    np.testing.assert_allclose(run(params, **inputs)["logits"][:, begin:end], alone, atol=2e-5)
    assert np.abs(run(params, tokens=inputs["tokens"])["logits"][:, begin:end] - alone).max() > 1e-2


def test_without_walls_there_are_no_segments():
    task = make_task(ClmConfig())
    assert "segment_ids" not in task.transform(None, None)({"tokens": tensorflow().zeros((1, 5), "int32")}, None)
    assert "segment_ids" not in task.features(1, 4, None)


def test_walls_need_an_end_token():
    with pytest.raises(UserError, match="document_walls needs a tokenizer with an end-of-text token"):
        make_task(ClmConfig(document_walls=True)).transform(None, SimpleNamespace(eos_id=None))
