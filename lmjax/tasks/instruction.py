"""Supervised tuning: a causal model learns the answers of conversations (Ouyang et al. 2022, section 3.5, step 1).

Conversations become tokens by a chat template, and are packed into rows with walls between them. What is learned are
the response tokens alone, each weighing the same; held-out figures are of response tokens too.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from lmjax.data.chat_template import ChatTemplate, encode, named_template
from lmjax.data.conversations import Conversation, read_conversations
from lmjax.data.examples import Encoded, digest_of
from lmjax.data.packing import pack_responses
from lmjax.data.splits import hold_out
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError
from lmjax.metrics import clustered_error
from lmjax.models.wrapped import Wrapped
from lmjax.objectives import Objective
from lmjax.tasks.task import Features, Figures, FilesConfig, Predictions, Supervised, Task, labelled_task
from lmjax.types import Array, Batch, Mean, Outputs


@dataclass(frozen=True, kw_only=True)
class InstructionConfig(FilesConfig):
    """Files of `data.conversations`, train.json, .jsonl or .csv and heldout, unless they are named. A share of the
    training file is held out by whole first questions, whatever their inputs. `template`: a name in
    `data.chat_template.TEMPLATES`; it is stored with the model."""

    template: str = "alpaca"


def instruction(cfg: InstructionConfig) -> Task:
    template = named_template(cfg.template)

    def files() -> dict[str, Any]:
        return cfg.files({"train": "train", "heldout": "heldout"}, ("json", "jsonl", "csv"))

    def read_splits() -> dict[str, list[Conversation]]:
        splits = {split: read_conversations(file) for split, file in files().items()}
        return hold_out(splits, cfg.heldout_share, cfg.limit, cfg.folder, first_question)

    task = labelled_task(
        heads=("clm",),
        objective=Objective(terms, {"response_loss": 1.0}, ("loss_weights",)),
        features=features,
        headline="response_loss",
        supervised=Supervised(
            name=cfg.data,
            fingerprint=lambda: f"{digest_of(files().values())} {template}",
            encode=lambda tokenizer, length: {
                split: encode_split(found, template, tokenizer, length) for split, found in read_splits().items()
            },
            read=read,
            predict=predict,
            score=score,
            baselines=baselines,
            files=lambda name, split, predictions, heldout: {},
            chat_template=template,
        ),
        language_model=True,
    )
    return replace(task, larger_is_better=False)


def features(rows: int, length: int) -> Features:
    names = ("tokens", "targets", "segment_ids", "positions")
    return {
        **{name: jax.ShapeDtypeStruct((rows, length), np.int32) for name in names},
        "loss_weights": jax.ShapeDtypeStruct((rows, length), np.float32),
        "example_weights": jax.ShapeDtypeStruct((rows,), np.float32),
    }


def first_question(conversation: Conversation) -> str:
    return next(turn.text for turn in conversation if turn.role == "user")


def encode_split(found: list[Conversation], template: ChatTemplate, tokenizer: Tokenizer, length: int) -> Encoded:
    """Rows as of `pack_responses`; the notes are the conversations."""
    encoded = [encode(template, tokenizer, conversation) for conversation in found]
    return Encoded(pack_responses(encoded, length), found)


def read(model: Wrapped, batch: Batch, train: bool) -> Outputs:
    """logits, and the targets [B, L] with them."""
    outputs = model.run(batch, train)
    if "logits" not in outputs:
        raise UserError("supervised tuning takes a model that predicts next tokens (GPT); choose another init_from")
    return {"logits": outputs["logits"], "targets": batch["targets"]}


def predict(outputs: Outputs) -> dict[str, Array]:
    """log_probability of each target, and whether it is_largest, float32 [B, L]."""
    found = outputs["logits"].statistics(outputs["targets"])
    is_largest = jax.lax.stop_gradient(found.target_is_largest)
    return {"log_probability": found.target_log_probability, "is_largest": is_largest}


def terms(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
    found, weights = predict(outputs), batch["loss_weights"]
    return {
        "response_loss": Mean.of(-found["log_probability"], weights),
        "response_accuracy": Mean.of(found["is_largest"], weights),
    }


def score(split: Encoded, predictions: Predictions, heldout: Figures) -> dict[str, float]:
    """Means over all response tokens of a split; the loss in nats, with its standard error over whole conversations."""
    learned = split.features["loss_weights"] > 0
    losses, right = -predictions["log_probability"][learned], predictions["is_largest"][learned]
    segments = split.features["segment_ids"].astype(np.int64)
    conversations = segments + (segments.max() + 1) * np.arange(len(segments))[:, None]
    loss = float(losses.mean(dtype=np.float64))
    return {
        "response_loss": loss,
        "response_loss_error": clustered_error(losses, conversations[learned]),
        "response_accuracy": float(right.mean(dtype=np.float64)),
        "response_perplexity": float(np.exp(loss)),
    }


def baselines(train: Encoded, heldout: Encoded) -> dict[str, dict[str, float]]:
    """What the frequencies of tokens in the training responses give: the unigram model's loss (add-one smoothing), and
    the accuracy of always answering the most frequent one."""
    learned, asked = (
        split.features["targets"][split.features["loss_weights"] > 0].astype(np.int64) for split in (train, heldout)
    )
    counts = np.bincount(learned, minlength=int(max(learned.max(), asked.max())) + 1)
    loss = -np.mean(np.log((counts[asked] + 1) / (counts.sum() + len(counts))))
    return {
        "response_loss": {"unigram": float(loss)},
        "response_accuracy": {"unigram": float(np.mean(asked == counts.argmax()))},
        "response_perplexity": {"unigram": float(np.exp(loss))},
    }
