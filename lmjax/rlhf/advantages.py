"""From scores to advantages: rewards for each token, whitening, generalised advantage estimation, the KL coefficient.

Pure functions of float32 arrays over whole batches; what the published codes do differently has a name here, and
`ShapingConfig` chooses. The rule for missing ends, gamma and lambda are by default those of Ziegler et al. 2019, the
masks and the whitening of advantages those of trl 1.12.0, which does not whiten rewards; a fixed coefficient of 0.02 is
that of Ouyang et al. 2022.

Letters: B answers, N tokens of an answer. `mask_BN` is 1 on an answer's tokens, its end token included, and 0 behind.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from lmjax.errors import UserError
from lmjax.types import Array

EPS = 1e-8  # of the variance, in whitening
Variance = Literal["population", "bessel"]
Estimator = Literal["k1", "k3"]
ScoreAt = Literal["last_token", "after_eos"]


@dataclass(frozen=True)
class ShapingConfig:
    """How scores and divergences become advantages.

    Attributes:
      missing_eos: what an answer without an end token scores: "replace" by minus the penalty (Ziegler et al.),
        "subtract" the penalty (trl), or "none" of that.
      normalise_scores: give scores a gain and a bias with which the reference's own answers to an iteration's prompts
        have mean 0 and standard deviation 1 (Ziegler et al.).
      kl_estimator: of one token's divergence: "k1" log pi - log ref, "k3" ref/pi - 1 - log(ref/pi) (Schulman 2020).
      score_at: where the score is given: "last_token", or, where there is room, "after_eos", a step later (trl).
      whiten_rewards: divide the rewards by their standard deviation; their mean stays.
      whiten_advantages: mean 0, standard deviation 1.
      whiten_over: "batch", once for all answers of an iteration (trl), or each "minibatch" by itself (Ziegler et al.).
        Always over all devices.
      variance: "population", or unbiased by "bessel"'s correction (trl).
    """

    missing_eos: Literal["replace", "subtract", "none"] = "replace"
    missing_eos_penalty: float = 1.0
    normalise_scores: bool = False
    kl_estimator: Estimator = "k1"
    score_at: ScoreAt = "last_token"
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    whiten_over: Literal["batch", "minibatch"] = "batch"
    variance: Variance = "bessel"
    gamma: float = 1.0
    gae_lambda: float = 0.95

    def __post_init__(self) -> None:
        if not (0 <= self.gamma <= 1 and 0 <= self.gae_lambda <= 1):
            raise UserError(f"gamma {self.gamma} and gae_lambda {self.gae_lambda} lie in 0 to 1")


@dataclass(frozen=True)
class KlConfig:
    """The coefficient of the divergence from the reference: fixed, or, with a `target` (nats an answer; 0 = fixed),
    adapted to it over about `horizon` answers (Ziegler et al. 2019, section 2.2; theirs: 0.15, 6 and 10,000)."""

    coefficient: float = 0.02
    target: float = 0.0
    horizon: float = 10_000.0

    def __post_init__(self) -> None:
        if min(self.coefficient, self.target) < 0 or self.horizon <= 0:
            raise UserError(f"{self}: coefficient and target are not negative, horizon is positive")
        if self.target and not self.coefficient:
            raise UserError(f"{self}: a coefficient of 0 adapts to no target; give it a positive one to begin with")


def whiten(x_BN: Array, mask_BN: Array, *, shift: bool = True, variance: Variance = "bessel") -> Array:
    """`x_BN` divided by its standard deviation under the mask, its mean taken away if `shift`; 0 where masked."""
    count = jnp.maximum(jnp.sum(mask_BN), 1)
    mean = jnp.sum(x_BN * mask_BN) / count
    squares = jnp.sum(jnp.square(x_BN - mean) * mask_BN)
    divisor = jnp.maximum(count - 1, 1) if variance == "bessel" else count
    whitened_BN = (x_BN - mean) * jax.lax.rsqrt(squares / divisor + EPS)
    return jnp.where(mask_BN > 0, whitened_BN if shift else whitened_BN + mean, 0)


def token_kl(log_probs_BN: Array, reference_BN: Array, mask_BN: Array, estimator: Estimator = "k1") -> Array:
    """An estimate, from the token drawn, of the policy's divergence from the reference; 0 where masked."""
    log_ratio_BN = jnp.where(mask_BN > 0, reference_BN - log_probs_BN, 0)
    return -log_ratio_BN if estimator == "k1" else jnp.expm1(log_ratio_BN) - log_ratio_BN


def final_scores(scores_B: Array, ended_B: Array, cfg: ShapingConfig) -> Array:
    """The scores, float32, with what becomes of answers that never ended (`ended_B` False)."""
    scores_B = scores_B.astype(jnp.float32)
    without_end_B = {
        "replace": jnp.full_like(scores_B, -cfg.missing_eos_penalty),
        "subtract": scores_B - cfg.missing_eos_penalty,
        "none": scores_B,
    }[cfg.missing_eos]
    return jnp.where(ended_B, scores_B, without_end_B)


def token_rewards(kl_BN: Array, scores_B: Array, mask_BN: Array, coefficient: Array, score_at: ScoreAt) -> Array:
    """-coefficient * divergence for each token, and the score once, where `score_at` says; float32 [B, N]."""
    place_B = jnp.sum(mask_BN, axis=1).astype(jnp.int32) - (score_at == "last_token")
    place_B = jnp.minimum(place_B, mask_BN.shape[1] - 1)
    is_place_BN = jnp.arange(mask_BN.shape[1])[None] == place_B[:, None]
    return jnp.where(is_place_BN, scores_B.astype(jnp.float32)[:, None], 0) - coefficient * kl_BN


def value_mask(mask_BN: Array, score_at: ScoreAt) -> Array:
    """Where a value counts: on the answer, and, if the score comes a step after its end, there too."""
    if score_at == "last_token":
        return mask_BN
    return jnp.concatenate([mask_BN[:, :1], mask_BN[:, :-1]], axis=1)


def advantages_and_returns(rewards_BN: Array, values_BN: Array, gamma: float, gae_lambda: float) -> tuple[Array, Array]:
    """Generalised advantage estimation (Schulman et al. 2016, equation 16), and the returns, advantages plus values.

    `values_BN`: of the states before each token, 0 where there is none; after the last column all is over.
    """

    def step(later: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        (advantage_B, next_value_B), (reward_B, value_B) = later, at
        delta_B = reward_B + gamma * next_value_B - value_B
        advantage_B = delta_B + gamma * gae_lambda * advantage_B
        return (advantage_B, value_B), advantage_B

    nothing_B = jnp.zeros_like(rewards_BN[:, 0])
    _, advantages_NB = jax.lax.scan(step, (nothing_B, nothing_B), (rewards_BN.T, values_BN.T), reverse=True)
    return advantages_NB.T, advantages_NB.T + values_BN


def shaped(rewards_BN: Array, values_BN: Array, mask_BN: Array, cfg: ShapingConfig) -> tuple[Array, Array]:
    """(advantages, returns) of answers with their per-token rewards, whitened as `cfg` says, over these answers.

    Returns are made of advantages that are not whitened yet.
    """
    values_mask_BN = value_mask(mask_BN, cfg.score_at)
    if cfg.whiten_rewards:
        rewards_BN = whiten(rewards_BN, values_mask_BN, shift=False, variance=cfg.variance)
    values_BN = jnp.where(values_mask_BN > 0, values_BN, 0)
    advantages_BN, returns_BN = advantages_and_returns(rewards_BN, values_BN, cfg.gamma, cfg.gae_lambda)
    if cfg.whiten_advantages:
        advantages_BN = whiten(advantages_BN, mask_BN, variance=cfg.variance)
    return jnp.where(mask_BN > 0, advantages_BN, 0), returns_BN


def adapted(coefficient: Array, kl: Array, episodes: int, cfg: KlConfig) -> Array:
    """The coefficient after an iteration of `episodes` answers, whose mean divergence (summed over tokens) was `kl`;
    what is not a number changes nothing."""
    if not cfg.target:
        return coefficient
    error = jnp.where(jnp.isnan(kl), 0, jnp.clip(kl / cfg.target - 1, -0.2, 0.2))
    return coefficient * (1 + error * episodes / cfg.horizon)
