"""Rows, outputs, scores and prediction files of the tasks on labelled texts."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.data.examples import Encoded
from lmjax.data.labelled import Example
from lmjax.errors import UserError
from lmjax.models.features import FeatureConfig
from lmjax.tasks import make_task
from lmjax.tasks.choice import ChoiceConfig
from lmjax.tasks.classification import ClassificationConfig, encode
from tests.models.tiny import VOCAB
from tests.tasks.tiny_task import batch_of, model_of, module_of
from tests.tiny_runs import tiny_tokenizer

TEXTS = [Example(("The dog barked.", "The postman ran away."), 1.0), Example(("A bank", "A clerk"), 0.0)]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_encoders_read_the_pooled_first_token(family: str) -> None:
    task = make_task(ClassificationConfig(data="mnli"))
    batch = batch_of(task)
    model, params = model_of(family, task)
    logits = model(batch)["class_logits"]
    assert logits.shape == (3, 3)
    assert set(params) >= {"word_embeddings", "layers", "pooler", "classifier"}
    assert "mlm" not in params

    def moved_by(place: int) -> float:
        changed = {**batch, "tokens": batch["tokens"].copy()}
        changed["tokens"][:, place] = (changed["tokens"][:, place] + 1) % VOCAB
        return float(jnp.abs(model(changed)["class_logits"] - logits).max())

    assert moved_by(8) > 1e-4
    assert moved_by(9) == 0  # padding


@pytest.mark.parametrize("family", ["gpt2", "openai-gpt"])
def test_decoders_read_the_last_real_token_of_both_orders(family: str) -> None:
    task = make_task(ClassificationConfig(data="mrpc", frame="ordered"))
    batch = batch_of(task)
    assert batch["tokens"].shape == (3, 2, 12)
    model, _ = model_of(family, task)
    outputs = model(batch)
    terms = task.objective.terms(outputs, batch | {"labels": np.zeros(3, np.int32)})
    assert set(terms) == {"cross_entropy", "accuracy", "clm", "clm_accuracy"}
    assert float(terms["clm"].weight) == 3 * 2 * 12

    def moved_by(place: tuple[int, ...]) -> float:
        changed = {**batch, "tokens": batch["tokens"].copy()}
        changed["tokens"][place] = (changed["tokens"][place] + 1) % VOCAB
        return float(jnp.abs(model(changed)["class_logits"] - outputs["class_logits"]).max())

    assert moved_by((0, 0, 8)) > 1e-4  # the last real token of either order
    assert moved_by((0, 1, 8)) > 1e-4
    assert moved_by((0, 0, 9)) == 0
    turned = batch | {"tokens": batch["tokens"][:, ::-1]}  # a sum does not know which came first
    np.testing.assert_allclose(model(turned)["class_logits"], outputs["class_logits"], atol=1e-5)


@pytest.mark.parametrize("cfg", [ClassificationConfig(data="mrpc"), ChoiceConfig(data="swag")])
def test_texts_that_only_fill_a_batch_do_not_count_in_the_scale_of_frozen_layers(cfg: Any) -> None:
    task = make_task(cfg)
    model, _ = model_of("bert", task, FeatureConfig("mix", layer_norm=True))
    batch = batch_of(task, rows=2)
    alone = {name: rows[:1] for name, rows in batch.items()}
    filled = {**batch, "example_weights": np.array([1.0, 0.0], np.float32)}
    first = model(alone)["class_logits"][0]
    np.testing.assert_allclose(model(filled)["class_logits"][0], first, atol=1e-5)
    assert jnp.abs(model(batch)["class_logits"][0] - first).max() > 1e-4  # a real row counts


@pytest.mark.parametrize("coefficient", [0.5, 0.25])
def test_the_language_model_learns_beside_the_task(coefficient: float) -> None:
    """Radford et al. 2018, equation 5: the gradient is the task's and so much of the language model's."""
    task = make_task(ClassificationConfig(data="rte", frame="ordered", language_model=coefficient))
    batch = batch_of(task)
    batch |= {"targets": batch["tokens"][:, ::-1], "labels": np.array([0, 1, 0], np.int32)}
    batch = task.objective.prepare(batch)
    module, params = module_of("openai-gpt", task)

    def terms(params: Any) -> dict[str, Any]:
        return task.objective.terms(module.apply({"params": params}, batch), batch)

    def of(name: str) -> Any:
        return jax.grad(lambda params: terms(params)[name].total)(params)

    found = jax.grad(lambda params: task.objective.loss(terms(params)))(params)
    wanted = jax.tree.map(lambda a, b: a + coefficient * b, of("cross_entropy"), of("clm"))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-4), found, wanted)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(of("clm"))) > 1e-2


def test_rows_of_a_language_model_predict_their_next_tokens() -> None:
    t = tiny_tokenizer("byte_bpe")
    rows = encode(TEXTS, t, 40, "ordered", 2, True).features
    assert rows["labels"].tolist() == [1, 0]
    tokens, targets = rows["tokens"], rows["targets"].reshape(2, 2, 40)
    np.testing.assert_array_equal(targets[..., :-1], tokens[..., 1:])
    np.testing.assert_array_equal(rows["loss_weights"].reshape(2, 2, 40).sum(-1), rows["segment_ids"].sum(-1) - 1)
    first, second = ([i for i in way if i < t.vocab_size and i] for way in tokens[1])
    assert t.decode(first) == "A bankA clerk"
    assert t.decode(second) == "A clerkA bank"


def test_a_model_without_a_vector_of_the_row_is_refused() -> None:
    task = make_task(ClassificationConfig(data="mrpc"))
    with pytest.raises(UserError, match="Elmo has no vector of a whole row"):
        model_of("elmo", task)


def test_figures_and_the_submission_format() -> None:
    task = make_task(ClassificationConfig(data="rte")).supervised
    assert task
    split = Encoded({"labels": np.array([0, 1, 1], np.uint8)}, [])
    found = {"class_logits": np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])}
    assert task.score(split, found, {}) == {"accuracy": pytest.approx(2 / 3)}
    assert task.baselines(split, split) == {"accuracy": {"majority": pytest.approx(2 / 3)}}
    lines = "index\tprediction\n0\tentailment\n1\tnot_entailment\n2\tentailment\n"
    assert task.files("test", split, found, {}) == {"RTE.tsv": lines}


def test_scores_are_cut_to_0_to_5_with_three_decimals() -> None:
    task = make_task(ClassificationConfig(data="stsb")).supervised
    assert task
    split = Encoded({"labels": np.array([0.0, 2.0, 5.0], np.float32)}, [])
    found = {"class_logits": np.array([[-1.0], [2.34567], [7.0]])}
    assert task.files("test", split, found, {}) == {"STS-B.tsv": "index\tprediction\n0\t0.000\n1\t2.346\n2\t5.000\n"}
    assert task.score(split, found, {})["spearman"] == pytest.approx(1)


def test_mnli_has_two_files_of_predictions() -> None:
    task = make_task(ClassificationConfig(data="mnli")).supervised
    assert task
    split, found = Encoded({"labels": np.zeros(1)}, []), {"class_logits": np.array([[0.0, 0.0, 1.0]])}
    assert task.files("test", split, found, {}) == {"MNLI-m.tsv": "index\tprediction\n0\tneutral\n"}
    assert list(task.files("test_mismatched", split, found, {})) == ["MNLI-mm.tsv"]
