"""What is optimised: named terms with coefficients, a pure function of (model outputs, batch) that knows no model.

Each optimised term is weighed by one feature of the batch. `prepare` divides those features by their global sums once,
on the whole batch, before it is cut into micro-batches: then every term is a plain weighted sum, and neither
accumulation, uneven masks, padded rows nor the mesh's shape can change the objective.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from lmjax.ops.sampled_softmax import sampled_softmax_loss
from lmjax.types import Array, Batch, Mean, Outputs

Terms = Callable[[Outputs, Batch], Mapping[str, Mean]]


@dataclass(frozen=True)
class Objective:
    """`terms(outputs, batch)` gives a Mean a name; `coefficients` says which are optimised, the rest are only reported.

    `weights`: the batch features that weigh terms.
    """

    terms: Terms
    coefficients: Mapping[str, float]
    weights: tuple[str, ...]

    def prepare(self, batch: Batch) -> dict[str, Array]:
        """Divides each weight feature by its global sum (by 1 where that is 0)."""
        totals = {name: jnp.sum(batch[name], dtype=jnp.float32) for name in self.weights}
        return {**batch, **{name: batch[name] / jnp.where(t == 0, 1, t) for name, t in totals.items()}}

    def loss(self, terms: Mapping[str, Mean]) -> Array:
        """The scalar to differentiate: the coefficients times the totals (weights are normalised already)."""
        return sum((c * terms[name].total for name, c in self.coefficients.items()), jnp.zeros(()))


def token_terms(name: str) -> Terms:
    """Cross-entropy (nats) of `targets` under `logits`, as term `name`, and accuracy as `name_accuracy`; weighed by
    `loss_weights`.

    Shapes: targets int32, loss_weights float32, both [B, L] or, for masked tokens, [B, M].
    """

    def terms(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        statistics = outputs["logits"].statistics(batch["targets"])
        weights = batch["loss_weights"]
        return {
            name: Mean.of(-statistics.target_log_probability, weights),
            f"{name}_accuracy": Mean.of(jax.lax.stop_gradient(statistics.target_is_largest), weights),
        }

    return terms


def next_sentence_terms(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
    """BERT's next-sentence cross-entropy "nsp" and its accuracy: next_sentence_logits [B, 2] against
    next_sentence_labels int32 [B] (0 = is next), weighed by example_weights [B]."""
    log_p = jax.nn.log_softmax(outputs["next_sentence_logits"])
    labels, weights = batch["next_sentence_labels"], batch["example_weights"]
    right = jnp.argmax(log_p, -1) == labels
    return {
        "nsp": Mean.of(-jnp.take_along_axis(log_p, labels[:, None], 1)[:, 0], weights),
        "nsp_accuracy": Mean.of(right, weights),
    }


def bilm(negatives: int) -> Objective:
    """A bidirectional language model's mean of both directions (Peters et al. 2018, section 3.1), also reported apart.

    `negatives`: how many words a training step scores beside the targets (`ops.sampled_softmax`); 0 = all of them, as
    in evaluation always. Outputs without a "sampling_key" are those of an evaluation.
    Shapes: targets and backward_targets int32, loss_weights float32, [B, L].
    """

    def terms(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        losses = {}
        for number, (name, feature) in enumerate((("forward", "targets"), ("backward", "backward_targets"))):
            logits, targets = outputs[f"{name}_logits"], batch[feature]
            if negatives and "sampling_key" in outputs:
                key = jax.random.fold_in(outputs["sampling_key"], number)
                losses[name] = sampled_softmax_loss(logits, targets, negatives, key)
            else:
                losses[name] = -logits.statistics(targets).target_log_probability
        losses["bilm"] = (losses["forward"] + losses["backward"]) / 2
        return {name: Mean.of(loss, batch["loss_weights"]) for name, loss in losses.items()}

    return Objective(terms, {"bilm": 1.0}, ("loss_weights",))


def clm() -> Objective:
    """Causal language modelling."""
    return Objective(token_terms("clm"), {"clm": 1.0}, ("loss_weights",))


def masking_terms(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
    """What the masking says about itself, where it does: means over rows, never optimised."""
    names = ("mlm_overflow", "masking_level")
    return {name: Mean.of(batch[name], batch["example_weights"]) for name in names if name in batch}


def mlm(next_sentence: bool) -> Objective:
    """Masked language modelling, with next-sentence prediction at equal weight if wanted (Devlin et al. 2019, section
    3.1)."""
    parts = [token_terms("mlm"), masking_terms, *([next_sentence_terms] if next_sentence else [])]
    return Objective(
        lambda outputs, batch: {name: mean for part in parts for name, mean in part(outputs, batch).items()},
        {"mlm": 1.0, "nsp": 1.0} if next_sentence else {"mlm": 1.0},
        ("loss_weights", "example_weights") if next_sentence else ("loss_weights",),
    )


def smoothed_terms(outputs: Outputs, batch: Batch, smoothing: float) -> dict[str, Mean]:
    """Label-smoothed cross-entropy "seq2seq_smoothed" (Szegedy et al. 2016, section 7), and as in `token_terms` the
    plain one, "seq2seq", with its accuracy.

    As tensor2tensor has it: the target gets 1 - smoothing, and each of the V - 1 others smoothing / (V - 1).
    """
    logits, weights = outputs["logits"], batch["loss_weights"]
    found = logits.statistics(batch["targets"])
    others = found.sum_logits - logits.vocab_size * found.log_normalizer - found.target_log_probability
    smoothed = -(1 - smoothing) * found.target_log_probability - smoothing / (logits.vocab_size - 1) * others
    return {
        "seq2seq_smoothed": Mean.of(smoothed, weights),
        "seq2seq": Mean.of(jax.lax.stop_gradient(-found.target_log_probability), weights),
        "seq2seq_accuracy": Mean.of(jax.lax.stop_gradient(found.target_is_largest), weights),
    }


def seq2seq(smoothing: float) -> Objective:
    """Translation: the label-smoothed loss is optimised (Vaswani et al. 2017, section 5.4), the plain one reported."""
    terms = partial(smoothed_terms, smoothing=smoothing)
    return Objective(terms, {"seq2seq_smoothed": 1.0}, ("loss_weights",))


def class_terms(outputs: Outputs, batch: Batch, weights: str = "example_weights") -> dict[str, Mean]:
    """Cross-entropy (nats) of `labels` int32 [...] under class_logits float32 [..., C], and accuracy; weighed by the
    feature `weights` [...]: of rows, or of their tokens."""
    log_p, labels = jax.nn.log_softmax(outputs["class_logits"]), batch["labels"]
    return {
        "cross_entropy": Mean.of(-jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0], batch[weights]),
        "accuracy": Mean.of(jnp.argmax(log_p, -1) == labels, batch[weights]),
    }


def span_terms(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
    """Cross-entropy (nats) of where an answer starts and ends, the mean of both, as google-research/bert's
    run_squad.py has it (Devlin et al. 2019, section 4.2, says the sum).

    start_logits and end_logits float32 [B, L] against starts and ends int32 [B]; weighed by loss_weights [B].
    """
    sides = (("start_logits", "starts"), ("end_logits", "ends"))
    losses = [
        -jnp.take_along_axis(jax.nn.log_softmax(outputs[logits]), batch[place][:, None], -1)[:, 0]
        for logits, place in sides
    ]
    return {"cross_entropy": Mean.of((losses[0] + losses[1]) / 2, batch["loss_weights"])}


def regression_terms(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
    """The squared error of class_logits float32 [B, 1] to `labels` float32 [B]; weighed by example_weights [B]."""
    error = outputs["class_logits"][:, 0] - batch["labels"]
    return {"squared_error": Mean.of(jnp.square(error), batch["example_weights"])}


def with_language_model(terms: Terms, name: str, coefficient: float) -> Objective:
    """The term `name` of a task on whole rows, and, where `coefficient` is not 0, so much of a causal language model's
    beside it (Radford et al. 2018, equation 5)."""
    if not coefficient:
        return Objective(terms, {name: 1.0}, ("example_weights",))
    return Objective(
        lambda outputs, batch: {**terms(outputs, batch), **token_terms("clm")(outputs, batch)},
        {name: 1.0, "clm": coefficient},
        ("example_weights", "loss_weights"),
    )


def ppo_terms(outputs: Outputs, batch: Batch, clip: float, value_clip: float, temperature: float) -> dict[str, Mean]:
    """The clipped losses "policy" (Schulman et al. 2017, equation 7) and "value" (as OpenAI's code clips values), and
    what is reported of them.

    Of N tokens of an answer: outputs logits (of the states before each token) and values float32 [B, N]; targets int32
    [B, N], the tokens; old_log_probs, old_values, advantages, returns float32 [B, N]; loss_weights weigh the policy,
    value_weights the values. Logits are divided by the temperature that the answers were drawn at.
    """
    found = outputs["logits"].statistics(batch["targets"], temperature=temperature, entropy=True)
    weights, value_weights = batch["loss_weights"], batch["value_weights"]
    # Behind an answer nothing was drawn, and no ratio may overflow there.
    log_ratio = jnp.where(weights > 0, found.target_log_probability - batch["old_log_probs"], 0)
    ratio = jnp.exp(log_ratio)
    plain = -batch["advantages"] * ratio
    clipped = -batch["advantages"] * jnp.clip(ratio, 1 - clip, 1 + clip)
    old, error = batch["old_values"], jnp.square(outputs["values"] - batch["returns"])
    held = jnp.clip(outputs["values"], old - value_clip, old + value_clip)
    held_error = jnp.square(held - batch["returns"])
    reported = {
        "entropy": Mean.of(found.entropy, weights),
        "approximate_kl": Mean.of(0.5 * jnp.square(log_ratio), weights),
        "ratio": Mean.of(ratio, weights),
        "clip_fraction": Mean.of(clipped > plain, weights),
        "value_clip_fraction": Mean.of(held_error > error, value_weights),
    }
    return {
        "policy": Mean.of(jnp.maximum(plain, clipped), weights),
        "value": Mean.of(0.5 * jnp.maximum(error, held_error), value_weights),
        **jax.lax.stop_gradient(reported),
    }


def ppo(
    clip: float = 0.2, value_clip: float = 0.2, value_coefficient: float = 0.1, temperature: float = 1.0
) -> Objective:
    """Proximal policy optimisation; see `ppo_terms`. Neither an entropy bonus nor a term for the divergence: that is in
    the rewards."""
    terms = partial(ppo_terms, clip=clip, value_clip=value_clip, temperature=temperature)
    return Objective(terms, {"policy": 1.0, "value": value_coefficient}, ("loss_weights", "value_weights"))


def with_pretraining(objective: Objective, coefficient: float) -> Objective:
    """The objective and so much of a causal language model's on pretraining text beside it: "pretraining" (PPO-ptx,
    Ouyang et al. 2022, equation 2). The text lies in features named text_*, its logits in outputs["text"]."""

    def terms(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        text = {name.removeprefix("text_"): value for name, value in batch.items() if name.startswith("text_")}
        return {**objective.terms(outputs, batch), **token_terms("pretraining")(outputs["text"], text)}

    coefficients = {**objective.coefficients, "pretraining": coefficient}
    return Objective(terms, coefficients, (*objective.weights, "text_loss_weights"))
