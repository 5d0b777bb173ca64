"""Held-out figures: Means added over batches and divided once, and the baselines that they are read beside."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lmjax.data.examples import Encoded
from lmjax.errors import UserError
from lmjax.parallel import global_batch
from lmjax.tasks import Task
from lmjax.train.step import Apply
from lmjax.types import Array, Batch, Mean, Params

TOKEN_LOSSES = ("mlm", "clm", "seq2seq", "forward", "backward")


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation each `every` steps and at the end, on `rows` held-out rows (evenly spread; 0 = all; of labelled
    examples always all). After `patience` evaluations in a row that were no better than the best, a run ends (0 =
    never)."""

    every: int = 1000
    rows: int = 1024
    patience: int = 0

    def __post_init__(self) -> None:
        if self.every < 1 or min(self.rows, self.patience) < 0:
            raise UserError(
                f"evaluation: every {self.every} must be at least 1; rows {self.rows} and patience {self.patience} are "
                "not negative"
            )


def evaluate(
    step: Callable[[Params, Batch], tuple[Mapping[str, Mean], dict[str, Any]]],
    params: Params,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    carried: Mapping[str, Any],
) -> dict[str, Array]:
    """Each term's mean over all rows; and `perplexity`, exp of the loss, for the terms that are token losses.

    A term that nothing weighed is not a number. `carried`: `{"carry": the state before the first batch}`, or nothing.
    """
    sums: dict[str, Mean] = {}
    for batch in batches:
        terms, carried = step(params, {**global_batch(batch, mesh, micro_batched=False), **carried})
        sums = {name: sums[name] + mean if name in sums else mean for name, mean in terms.items()}
    values = {name: mean.value() for name, mean in jax.device_get(sums).items()}
    perplexities = {f"{name}_perplexity": np.exp(values[name]) for name in TOKEN_LOSSES if name in values}
    return values | perplexities


def make_predict_step(
    apply: Apply, task: Task
) -> Callable[[Params, Batch], tuple[Mapping[str, Mean], Mapping[str, Array]]]:
    """Returns `step(params, batch) -> {term: Mean}, {name: what is kept of each row}`, without dropout."""

    def step(params: Params, batch: Batch) -> tuple[Mapping[str, Mean], Mapping[str, Array]]:
        assert task.supervised
        outputs = apply(params, batch, None)
        return task.objective.terms(outputs, batch), task.supervised.predict(outputs)

    return step


def predict(
    step: Callable[[Params, Batch], tuple[Mapping[str, Mean], Mapping[str, Array]]],
    params: Params,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    rows: int,
) -> tuple[dict[str, Array], dict[str, np.ndarray]]:
    """Each term's mean over the `rows` rows of a split, and what is kept of each row, [rows, ...], on every process."""
    sums: dict[str, Mean] = {}
    kept: list[Mapping[str, Any]] = []
    for batch in batches:
        terms, found = step(params, global_batch(batch, mesh, micro_batched=False))
        sums = {name: sums[name] + mean if name in sums else mean for name, mean in terms.items()}
        kept.append(multihost_utils.process_allgather(found, tiled=True) if jax.process_count() > 1 else found)
    values = {name: mean.value() for name, mean in jax.device_get(sums).items()}
    kept = jax.device_get(kept)
    return values, {name: np.concatenate([part[name] for part in kept])[:rows] for name in kept[0]}


def evaluate_examples(
    task: Task,
    step: Callable[..., Any],
    params: Params,
    batches: Callable[[str], Iterable[Mapping[str, np.ndarray]]],
    mesh: Mesh,
    examples: Mapping[str, Encoded],
) -> dict[str, Any]:
    """The losses and the task's own figures on each labelled split but the training one, named as by `of_split`."""
    assert task.supervised
    figures: dict[str, Any] = {}
    for name in scored_splits(examples):
        split = examples[name]
        if not split.labelled:
            continue
        means, predictions = predict(step, params, batches(name), mesh, len(split))
        figures |= of_split(name, means | dict(task.supervised.score(split, predictions, figures)))
    return figures


def scored_splits(examples: Mapping[str, Encoded]) -> list[str]:
    """The held-out split, by which figures of the others may be decided, and then those."""
    return ["heldout", *(name for name in examples if name not in ("train", "heldout"))]


def of_split(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of a split under the names that they have among those of others: "heldout" ones keep theirs."""
    return {key if name == "heldout" else f"{name}_{key}": value for key, value in figures.items()}


def baselines(
    name: str, batches: Iterable[Mapping[str, np.ndarray]], counts: np.ndarray
) -> dict[str, dict[str, float]]:
    """What knowing nothing but frequencies gives on the same rows: {term: {the baseline's name: figure}}.

    Args:
      name: the token term ("mlm", "clm", "seq2seq"); gets the unigram model's loss in nats (add-one smoothing)
        and the accuracy of always answering the most frequent token.
      counts: int64 [vocabulary] occurrences in the training text.

    "nsp_accuracy", where rows carry next_sentence_labels, is the majority label's share. A model of two directions gets
    the figure for either, and its perplexity: the unigram model knows no direction.
    """
    surprise = -np.log((counts + 1) / (counts.sum() + len(counts)))
    weight = nll = hits = 0.0
    labels, two_ways = np.zeros(2), False
    for batch in batches:
        weights = batch["loss_weights"]
        weight += weights.sum()
        nll += (surprise[batch["targets"]] * weights).sum()
        hits += ((batch["targets"] == counts.argmax()) * weights).sum()
        two_ways |= "backward_targets" in batch
        if "next_sentence_labels" in batch:
            labels += np.bincount(batch["next_sentence_labels"], batch["example_weights"], minlength=2)
    result = {name: {"unigram": float(nll / weight)}, f"{name}_accuracy": {"unigram": float(hits / weight)}}
    for direction in ("forward", "backward") if two_ways else ():
        result[direction] = {"unigram": float(nll / weight)}
        result[f"{direction}_perplexity"] = {"unigram": float(np.exp(nll / weight))}
    if labels.any():
        result["nsp_accuracy"] = {"majority": float(labels.max() / labels.sum())}
    return result
