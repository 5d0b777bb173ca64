"""A reward model: the supervised model with one number at an answer's last token, fitted to people's rankings.

"pairwise": -1/C(K, 2) of the sum, over all pairs of a prompt's K answers that are no tie, of log sigmoid(r_better -
r_worse); one prompt is one example (Ouyang et al. 2022, section 3.5, equation 1). "softmax": the cross-entropy of the
best answer among all of a prompt's (Ziegler et al. 2019, section 2.1, equation 1); several best ones share it.

The head begins at N(0, 1/(d+1)), the standard deviation being 1/sqrt(d+1), as in the code of Ziegler et al.; Stiennon
et al. 2020 print the variance. Neither loss knows the rewards' zero: `shift` among the figures is the mean reward of
the held-out references, people's own answers (demonstrations, Ouyang et al.; reference summaries, Stiennon et al.), or
where the rankings mark none, of the best answers. `rlhf.scores` subtracts it.

Letters: B prompts, K answers a prompt, L length, D hidden size.
"""

import json
from dataclasses import dataclass
from functools import partial
from typing import Literal

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
from lmjax.types import Array, Batch, Mean, Outputs


@dataclass(frozen=True, kw_only=True)
class RewardConfig(PreferenceConfig):
    """`candidates`: the most answers that a prompt has; rows of prompts with fewer are padded."""

    loss: Literal["pairwise", "softmax"] = "pairwise"
    candidates: int = 2


def reward(cfg: RewardConfig) -> Task:
    def features(rows: int, length: int) -> Features:
        text = jax.ShapeDtypeStruct((rows, cfg.candidates, length), np.int32)
        return {
            "tokens": text,
            "segment_ids": text,
            "ranks": jax.ShapeDtypeStruct((rows, cfg.candidates), np.int32),
            "example_weights": jax.ShapeDtypeStruct((rows,), np.float32),
        }

    return labelled_task(
        objective=Objective(partial(terms, loss=cfg.loss), {cfg.loss: 1.0}, ("example_weights",)),
        features=features,
        headline="accuracy",
        supervised=Supervised(
            name=f"reward-{cfg.data}",
            fingerprint=lambda: fingerprint(cfg),
            encode=lambda tokenizer, length: {
                split: encode(found, tokenizer, length, cfg, split) for split, found in read_splits(cfg).items()
            },
            read=read,
            predict=lambda outputs: {"rewards": outputs["rewards"]},
            score=score,
            baselines=baselines,
            files=files,
            sequences=cfg.candidates,
        ),
    )


def encode(found: list[Ranking], tokenizer: Tokenizer, length: int, cfg: RewardConfig, split: str) -> Encoded:
    """tokens and segment_ids int32 [rows, K, length]; ranks [rows, K], 1 = best and 0 = no answer.

    Notes: of each row its answers' lengths in characters, and the place of the reference. Raises UserError for more
    than K answers.
    """
    most = max(len(one.answers) for one in found)
    if most > cfg.candidates:
        raise UserError(f"{cfg.data}, {split}: a prompt has {most} answers; set task.candidates to {most}")
    kept = list(framed(found, tokenizer, cfg, length, split))
    shape = (len(kept), cfg.candidates, length)
    tokens, segments, ranks = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape[:2], np.int32)
    for number, (ranking, rows, _) in enumerate(kept):
        for k, row in enumerate(rows):
            tokens[number, k, : len(row)] = row
            segments[number, k, : len(row)] = 1
        ranks[number, : len(rows)] = ranking.ranks or 0
    notes = [{"lengths": [*map(len, ranking.answers)], "reference": ranking.reference} for ranking, *_ in kept]
    return Encoded({"tokens": tokens, "segment_ids": segments, "ranks": ranks}, notes)


def read(model: Wrapped, batch: Batch, train: bool) -> Outputs:
    """rewards float32 [B, K], each at the last real token of its text."""
    B, K, L = batch["tokens"].shape
    texts = {name: batch[name].reshape(B * K, L) for name in ("tokens", "segment_ids")}
    rewards = every_reward(model, texts, train)["rewards"]
    last = jnp.maximum(jnp.sum(texts["segment_ids"], -1) - 1, 0)
    return {"rewards": jnp.take_along_axis(rewards, last[:, None], -1).reshape(B, K)}


def every_reward(model: Wrapped, batch: Batch, train: bool) -> Outputs:
    """rewards float32 [B, L] at every token of texts [B, L]; the head computes in float32 whatever the model does.

    Raises UserError for a model that is not causal."""
    check_causal(model)
    hidden_BLD = model.run(batch, train)["hidden"].astype(jnp.float32)
    stddev = (hidden_BLD.shape[-1] + 1) ** -0.5
    return {"rewards": model.dense("reward", hidden_BLD, 1, stddev)[..., 0]}


def terms(outputs: Outputs, batch: Batch, loss: str) -> dict[str, Mean]:
    """The loss of each prompt, weighed by example_weights [B]; and accuracy, the share of pairs in the right order."""
    rewards_BK, ranks_BK, weights_B = outputs["rewards"], batch["ranks"], batch["example_weights"]
    real_BK = ranks_BK > 0
    ordered_BKK = real_BK[:, :, None] & real_BK[:, None] & (ranks_BK[:, :, None] < ranks_BK[:, None])
    margins_BKK = rewards_BK[:, :, None] - rewards_BK[:, None]
    right_BKK = jnp.where(margins_BKK == 0, 0.5, margins_BKK > 0)
    loss_B = (_pairwise if loss == "pairwise" else _softmax)(rewards_BK, ranks_BK, margins_BKK, ordered_BKK)
    return {
        loss: Mean.of(loss_B, weights_B),
        "accuracy": Mean.of(jax.lax.stop_gradient(right_BKK), ordered_BKK * weights_B[:, None, None]),
    }


def _pairwise(rewards_BK: Array, ranks_BK: Array, margins_BKK: Array, ordered_BKK: Array) -> Array:
    answers_B = jnp.sum(ranks_BK > 0, -1)
    losses_B = jnp.sum(jnp.where(ordered_BKK, jax.nn.softplus(-margins_BKK), 0), (1, 2))
    return losses_B / jnp.maximum(answers_B * (answers_B - 1) / 2, 1)


def _softmax(rewards_BK: Array, ranks_BK: Array, margins_BKK: Array, ordered_BKK: Array) -> Array:
    real_BK, best_BK = ranks_BK > 0, ranks_BK == 1
    log_p_BK = jax.nn.log_softmax(jnp.where(real_BK, rewards_BK, -jnp.inf))
    return -jnp.sum(jnp.where(best_BK, log_p_BK, 0), -1) / jnp.maximum(jnp.sum(best_BK, -1), 1)


def pairs_of(ranks: np.ndarray) -> np.ndarray:
    """(row, better answer, worse answer) of each pair that is no tie, int [pairs, 3]."""
    real = ranks > 0
    return np.argwhere(real[:, :, None] & real[:, None] & (ranks[:, :, None] < ranks[:, None]))


def score(split: Encoded, predictions: Predictions, heldout: Figures) -> dict[str, float]:
    """What `pair_figures` says; and `shift`, the mean reward of the references, or without any of the best answers."""
    rewards, ranks = predictions["rewards"], np.asarray(split.features["ranks"])
    row, better, worse = pairs_of(ranks).T
    margins = rewards[row, better] - rewards[row, worse]
    references = [(row, note["reference"]) for row, note in enumerate(split.notes) if note["reference"] is not None]
    zero = rewards[tuple(np.transpose(references))] if references else rewards[ranks == 1]
    return {**pair_figures(margins, row), "shift": float(zero.mean(dtype=np.float64))}


def baselines(train: Encoded, heldout: Encoded) -> dict[str, dict[str, float]]:
    """Chance, and to prefer the longer answer."""
    row, better, worse = pairs_of(np.asarray(heldout.features["ranks"])).T
    lengths = [note["lengths"] for note in heldout.notes]
    sizes = [[lengths[r][b], lengths[r][w]] for r, b, w in zip(row, better, worse, strict=True)]
    longer = np.sign(np.subtract(*np.array(sizes).T))
    return {"accuracy": {"chance": 0.5, "longer": float(np.mean((longer + 1) / 2))}}


def files(name: str, split: Encoded, predictions: Predictions, heldout: Figures) -> dict[str, str]:
    """rewards.jsonl, a prompt's rewards and ranks a line; calibration.json, see `calibration`."""
    ranks = np.asarray(split.features["ranks"])
    row, better, worse = pairs_of(ranks).T
    table = calibration(predictions["rewards"][row, better] - predictions["rewards"][row, worse])
    lines = [
        json.dumps({"rewards": [round(float(x), 6) for x in r[real]], "ranks": k[real].tolist()})
        for r, k, real in zip(predictions["rewards"], ranks, ranks > 0, strict=True)
    ]
    return {"rewards.jsonl": "".join(f"{line}\n" for line in lines), "calibration.json": json.dumps(table, indent=1)}
