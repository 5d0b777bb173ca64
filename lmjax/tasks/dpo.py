"""Direct preference optimisation (Rafailov et al. 2023, equation 7): the policy's own log-probabilities as the reward.

    loss = -log sigmoid(beta ((log p(y_w) - log p_ref(y_w)) - (log p(y_l) - log p_ref(y_l))))

for each pair of a better answer y_w and a worse y_l to one prompt. The reference is the model that the run begins with;
what it gives the answers is computed once, by the same function as the policy's, and is a feature of the rows (see
`Supervised.reference`). So the objective is a pure function of (outputs, batch), and training holds one model.

Letters: B pairs, L length; axis 1 of a pair is (better, worse).
"""

import json
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.data.examples import Encoded
from lmjax.data.preferences import Ranking
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError
from lmjax.models.wrapped import Wrapped
from lmjax.objectives import Objective
from lmjax.tasks.preferences import (
    PreferenceConfig,
    calibration,
    check_causal,
    fingerprint,
    framed,
    pair_figures,
    read_splits,
)
from lmjax.tasks.task import Features, Figures, Predictions, Supervised, Task, labelled_task
from lmjax.types import Batch, Mean, Outputs


@dataclass(frozen=True, kw_only=True)
class DpoConfig(PreferenceConfig):
    """`beta`: how dear it is to leave the reference, in units of the reward."""

    beta: float = 0.1


def dpo(cfg: DpoConfig) -> Task:
    if cfg.beta <= 0:
        raise UserError(f"task.beta is {cfg.beta}; it must be positive")

    def features(rows: int, length: int) -> Features:
        text = jax.ShapeDtypeStruct((rows, 2, length), np.int32)
        return {
            **dict.fromkeys(("tokens", "segment_ids", "targets"), text),
            "answer_weights": jax.ShapeDtypeStruct((rows, 2, length), np.float32),
            "reference_log_probabilities": jax.ShapeDtypeStruct((rows, 2), np.float32),
            "example_weights": jax.ShapeDtypeStruct((rows,), np.float32),
        }

    return labelled_task(
        heads=("clm",),
        objective=Objective(partial(terms, beta=cfg.beta), {"dpo": 1.0}, ("example_weights",)),
        features=features,
        headline="accuracy",
        supervised=Supervised(
            name=f"dpo-{cfg.data}",
            fingerprint=lambda: fingerprint(cfg),
            encode=lambda tokenizer, length: {
                split: encode(found, tokenizer, length, cfg, split) for split, found in read_splits(cfg).items()
            },
            read=read,
            predict=lambda outputs: {"log_probabilities": outputs["log_probabilities"]},
            score=partial(score, cfg.beta),
            baselines=lambda train, heldout: {"accuracy": {"chance": 0.5}},
            files=partial(files, cfg.beta),
            sequences=2,
            reference=("log_probabilities",),
        ),
        language_model=True,
    )


def encode(found: list[Ranking], tokenizer: Tokenizer, length: int, cfg: DpoConfig, split: str) -> Encoded:
    """A row for each pair of answers that is no tie: tokens, segment_ids, targets int32 [rows, 2, length], and
    answer_weights, 1 where a target belongs to the answer. Notes: of each row the number of its prompt."""
    pairs = [
        (number, rows[side], prompt)
        for number, (ranking, rows, prompt) in enumerate(framed(found, tokenizer, cfg, length, split))
        for pair in ranking.pairs
        for side in pair
    ]
    shape = (len(pairs), length)
    tokens, segments, targets, weights = (np.zeros(shape, np.int32) for _ in range(4))
    for row, (_, text, prompt) in enumerate(pairs):
        tokens[row, : len(text)], segments[row, : len(text)] = text, 1
        targets[row, : len(text) - 1] = text[1:]
        weights[row, prompt - 1 : len(text) - 1] = 1
    texts = {"tokens": tokens, "segment_ids": segments, "targets": targets, "answer_weights": weights}
    features: dict[str, np.ndarray] = {name: x.reshape(-1, 2, length) for name, x in texts.items()}
    features["reference_log_probabilities"] = np.zeros((len(pairs) // 2, 2), np.float32)
    return Encoded(features, [number for number, *_ in pairs[::2]])


def read(model: Wrapped, batch: Batch, train: bool) -> Outputs:
    """log_probabilities float32 [B, 2], of each answer given the prompt: the sum over its tokens."""
    check_causal(model)
    L = batch["tokens"].shape[-1]
    texts = {name: batch[name].reshape(-1, L) for name in ("tokens", "segment_ids", "targets", "answer_weights")}
    log_p = model.run(texts, train)["logits"].statistics(texts["targets"]).target_log_probability
    return {"log_probabilities": jnp.sum(log_p * texts["answer_weights"], -1).reshape(-1, 2)}


def terms(outputs: Outputs, batch: Batch, beta: float) -> dict[str, Mean]:
    """The loss of each pair, weighed by example_weights [B]; what is reported besides: the implicit rewards beta (log p
    - log p_ref) of either side, and accuracy, the share of pairs that they order right."""
    rewards_B2 = beta * (outputs["log_probabilities"] - batch["reference_log_probabilities"])
    margin_B, weights_B = rewards_B2[:, 0] - rewards_B2[:, 1], batch["example_weights"]
    found = {"accuracy": jnp.where(margin_B == 0, 0.5, margin_B > 0)}
    found |= {name: rewards_B2[:, side] for side, name in enumerate(("reward_better", "reward_worse"))}
    reported = {name: Mean.of(jax.lax.stop_gradient(value), weights_B) for name, value in found.items()}
    return {"dpo": Mean.of(jax.nn.softplus(-margin_B), weights_B), **reported}


def margins_of(beta: float, split: Encoded, predictions: Predictions) -> np.ndarray:
    """float [pairs], the better answer's implicit reward less the worse one's."""
    reference = np.asarray(split.features["reference_log_probabilities"])
    return -np.diff(beta * (predictions["log_probabilities"] - reference))[:, 0]


def score(beta: float, split: Encoded, predictions: Predictions, heldout: Figures) -> dict[str, float]:
    return pair_figures(margins_of(beta, split, predictions), np.array(split.notes))


def files(beta: float, name: str, split: Encoded, predictions: Predictions, heldout: Figures) -> dict[str, str]:
    """margins.jsonl, a pair's margin a line; calibration.json, see `calibration`."""
    margins = margins_of(beta, split, predictions)
    lines = "".join(f"{margin:.6f}\n" for margin in margins)
    return {"margins.jsonl": lines, "calibration.json": json.dumps(calibration(margins), indent=1)}
