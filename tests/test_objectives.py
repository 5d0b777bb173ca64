"""Objectives against sums written out, over outputs made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import objectives
from lmjax.ops.sampled_softmax import sampled_softmax_loss
from lmjax.ops.vocabulary import VocabLogits
from lmjax.types import Mean

pytestmark = pytest.mark.core

ROWS, LENGTH, VOCAB = 2, 3, 5


def _case():
    """Outputs whose logits are the hidden states themselves, a batch, and log-probabilities by numpy."""
    rng = np.random.default_rng(0)
    logits, pairs = rng.normal(size=(ROWS, LENGTH, VOCAB)), rng.normal(size=(ROWS, 2))
    outputs = {
        "logits": VocabLogits(jnp.float32(logits), jnp.eye(VOCAB), None, VOCAB),
        "next_sentence_logits": jnp.float32(pairs),
    }
    batch = {
        "targets": np.array([[0, 4, 2], [1, 1, 3]], np.int32),
        "loss_weights": np.float32([[1, 0, 2], [0, 0.5, 0]]),
        "next_sentence_labels": np.array([0, 1], np.int32),
        "example_weights": np.float32([1, 3]),
    }
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return outputs, batch, log_p, pairs - np.log(np.exp(pairs).sum(-1, keepdims=True))


def test_token_terms():
    outputs, batch, log_p, _ = _case()
    terms = objectives.token_terms("clm")(outputs, batch)
    at_target = np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
    weights = batch["loss_weights"]
    assert terms.keys() == {"clm", "clm_accuracy"}
    np.testing.assert_allclose(terms["clm"].value(), -(weights * at_target).sum() / weights.sum(), rtol=1e-6)
    right = log_p.argmax(-1) == batch["targets"]
    np.testing.assert_allclose(terms["clm_accuracy"].value(), (weights * right).sum() / weights.sum(), rtol=1e-6)


def test_label_smoothing_is_spread_over_the_other_words():
    outputs, batch, log_p, _ = _case()
    terms = objectives.seq2seq(0.3).terms(outputs, batch)
    wanted = np.where(np.arange(VOCAB) == batch["targets"][..., None], 0.7, 0.3 / (VOCAB - 1))
    weights = batch["loss_weights"]
    expected = -(weights * (wanted * log_p).sum(-1)).sum() / weights.sum()
    np.testing.assert_allclose(terms["seq2seq_smoothed"].value(), expected, rtol=1e-6)
    plain = objectives.token_terms("seq2seq")(outputs, batch)
    assert {name: float(mean.value()) for name, mean in plain.items()} == {
        name: pytest.approx(float(terms[name].value())) for name in plain
    }
    assert objectives.seq2seq(0.3).coefficients == {"seq2seq_smoothed": 1.0}


def test_each_direction_of_a_bilm_draws_its_own_negatives_and_evaluation_none():
    outputs, batch, log_p, _ = _case()
    logits, key = outputs["logits"], jax.random.key(3)
    outputs = {"forward_logits": logits, "backward_logits": logits}
    batch |= {"backward_targets": batch["targets"]}
    evaluated, drawn = (objectives.bilm(2).terms(outputs | more, batch) for more in ({}, {"sampling_key": key}))
    weights, at_target = batch["loss_weights"], np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
    full = -(weights * at_target).sum() / weights.sum()
    for number, name in enumerate(("forward", "backward")):
        np.testing.assert_allclose(evaluated[name].value(), full, rtol=1e-6)
        loss = sampled_softmax_loss(logits, batch["targets"], 2, jax.random.fold_in(key, number))
        np.testing.assert_allclose(drawn[name].value(), (weights * loss).sum() / weights.sum(), rtol=1e-6)
    assert float(drawn["forward"].value()) != float(drawn["backward"].value())
    mean = (drawn["forward"].value() + drawn["backward"].value()) / 2
    np.testing.assert_allclose(drawn["bilm"].value(), mean, rtol=1e-6)


def test_next_sentence_terms():
    outputs, batch, _, log_p = _case()
    terms = objectives.next_sentence_terms(outputs, batch)
    np.testing.assert_allclose(terms["nsp"].value(), -(log_p[0, 0] + 3 * log_p[1, 1]) / 4, rtol=1e-6)
    right = (log_p.argmax(-1) == [0, 1]) @ [1, 3]
    np.testing.assert_allclose(terms["nsp_accuracy"].value(), right / 4)


def test_prepare_divides_by_the_global_sum():
    _, batch, _, _ = _case()
    prepared = objectives.mlm(next_sentence=True).prepare(batch)
    np.testing.assert_allclose(prepared["loss_weights"], batch["loss_weights"] / 3.5, rtol=1e-6)
    np.testing.assert_allclose(prepared["example_weights"], [0.25, 0.75])
    np.testing.assert_array_equal(prepared["targets"], batch["targets"])
    assert set(prepared) == set(batch)


def test_prepare_leaves_no_weight_at_no_weight():
    _, batch, _, _ = _case()
    prepared = objectives.clm().prepare(batch | {"loss_weights": np.zeros((ROWS, LENGTH), np.float32)})
    np.testing.assert_array_equal(prepared["loss_weights"], 0)
    np.testing.assert_array_equal(prepared["example_weights"], batch["example_weights"])  # weighs nothing there


def test_the_loss_is_the_sum_of_the_optimised_means():
    outputs, batch, _, _ = _case()
    objective = objectives.mlm(next_sentence=True)
    means = objective.terms(outputs, batch)
    loss = objective.loss(objective.terms(outputs, objective.prepare(batch)))
    np.testing.assert_allclose(loss, means["mlm"].value() + means["nsp"].value(), rtol=1e-6)
    assert set(means) == {"mlm", "mlm_accuracy", "nsp", "nsp_accuracy"}


def test_coefficients_weigh_the_terms():
    objective = objectives.Objective(lambda *_: {}, {"a": 0.5, "b": 2.0}, ())
    terms = {"a": Mean(jnp.float32(3), jnp.float32(1)), "b": Mean(jnp.float32(5), jnp.float32(1))}
    reported = {"c": Mean(jnp.float32(100), jnp.float32(1))}
    assert float(objective.loss(terms | reported)) == 11.5


def test_without_next_sentence_prediction_nothing_asks_for_it():
    outputs, batch, _, _ = _case()
    objective = objectives.mlm(next_sentence=False)
    batch = {"targets": batch["targets"], "loss_weights": batch["loss_weights"]}
    assert set(objective.terms({"logits": outputs["logits"]}, objective.prepare(batch))) == {"mlm", "mlm_accuracy"}


def test_masking_reports_its_level_and_overflow_over_real_rows():
    batch = {
        "masking_level": jnp.array([3.0, 3.0, 0.0]),
        "mlm_overflow": jnp.array([4.0, 0.0, 9.0]),
        "example_weights": jnp.array([1.0, 1.0, 0.0]),
    }
    found = {name: float(mean.value()) for name, mean in objectives.masking_terms({}, batch).items()}
    assert found == {"masking_level": 3.0, "mlm_overflow": 2.0}
    assert objectives.masking_terms({}, {"example_weights": batch["example_weights"]}) == {}
