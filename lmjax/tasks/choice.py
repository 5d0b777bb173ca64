"""The right one of several endings: SWAG, CODAH, OpenBookQA (`data.choices`).

Each ending is read with the context; a layer makes one number of each one's vector, and a softmax chooses (Devlin et
al. 2019, section 4.4). Decoders read ordered texts, with the language-model loss beside (Radford et al. 2018, section
3.3).
"""

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from etils import epath

from lmjax import objectives
from lmjax.data.choices import Choice, choice_set, read_choices
from lmjax.data.examples import Encoded, digest_of
from lmjax.data.framing import NEW_TOKENS, TEXT, Frame, frame, next_tokens
from lmjax.data.splits import hold_out
from lmjax.data.tokenizers import Tokenizer
from lmjax.metrics import accuracy
from lmjax.models.task_layers import TaskLayer
from lmjax.models.wrapped import Wrapped
from lmjax.tasks.classification import read_texts
from lmjax.tasks.task import Features, Figures, FilesConfig, Predictions, Supervised, Task, index_lines, labelled_task
from lmjax.types import Batch, Outputs


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig(FilesConfig):
    """One of the sets of `data.choices`. `language_model`: the coefficient of the language-model loss, for decoders."""

    language_model: float = 0.5


def choice(cfg: ChoiceConfig) -> Task:
    record = choice_set(cfg.data)
    coefficient = cfg.language_model if cfg.frame == "ordered" else 0.0

    def features(rows: int, length: int) -> Features:
        kinds = {"targets": np.int32, "loss_weights": np.float32} if coefficient else {}
        return {
            **{name: jax.ShapeDtypeStruct((rows, record.choices * length), kind) for name, kind in kinds.items()},
            **{name: jax.ShapeDtypeStruct((rows, record.choices, length), np.int32) for name in TEXT},
            "labels": jax.ShapeDtypeStruct((rows,), np.int32),
            "example_weights": jax.ShapeDtypeStruct((rows,), np.float32),
        }

    def files() -> dict[str, epath.Path]:
        return cfg.files(record.file.files, ("csv", "tsv"))

    def read_splits() -> dict[str, list[Choice]]:
        splits = {name: read_choices(file, cfg.data, name != "test") for name, file in files().items()}
        return hold_out(splits, cfg.heldout_share, cfg.limit, cfg.folder)

    return labelled_task(
        heads=("pooler", "clm") if coefficient else ("pooler",),
        objective=objectives.with_language_model(objectives.class_terms, "cross_entropy", coefficient),
        features=features,
        headline="accuracy",
        supervised=Supervised(
            name=cfg.data,
            fingerprint=lambda: digest_of(files().values()),
            encode=lambda tokenizer, length: {
                split: encode(found, tokenizer, length, cfg.frame, bool(coefficient))
                for split, found in read_splits().items()
            },
            read=read,
            predict=lambda outputs: {"class_logits": outputs["class_logits"]},
            score=score,
            baselines=baselines,
            files=partial(prediction_files, record.file.labels, cfg.data),
            layer=TaskLayer("ForMultipleChoice"),
            new_tokens=NEW_TOKENS[cfg.frame],
            sequences=record.choices,
        ),
        language_model=bool(coefficient),
    )


def encode(found: list[Choice], tokenizer: Tokenizer, length: int, kind: Frame, language_model: bool) -> Encoded:
    """`TEXT` int32 [rows, choices, length]; labels [rows]; for a language model targets and loss_weights [rows, choices
    * length]."""
    contexts = tokenizer.encode_batch([one.context for one in found])
    endings = iter(tokenizer.encode_batch([ending for one in found for ending in one.endings]))
    pairs = [[a, next(endings)] for one, a in zip(found, contexts, strict=True) for _ in one.endings]
    rows = frame(pairs, tokenizer, length, kind)
    features = {name: x.reshape(len(found), -1, length) for name, x in rows.items()}
    labels = [one.label for one in found]
    features["labels"] = np.array([label or 0 for label in labels])
    return Encoded(features | (next_tokens(features) if language_model else {}), [], labelled=None not in labels)


def read(model: Wrapped, batch: Batch, train: bool) -> Outputs:
    """class_logits float32 [B, choices]; of a language model its logits too."""
    vectors, outputs = read_texts(model, batch, train)
    return {"class_logits": model.dense("classifier", model.dropout(vectors, train), 1)[..., 0], **outputs}


def score(split: Encoded, predictions: Predictions, heldout: Figures) -> dict[str, float]:
    return {"accuracy": accuracy(split.features["labels"], np.argmax(predictions["class_logits"], -1))}


def baselines(train: Encoded, heldout: Encoded) -> dict[str, dict[str, float]]:
    """Chance."""
    return {"accuracy": {"chance": 1 / heldout.features["tokens"].shape[1]}}


def prediction_files(
    labels: tuple[str, ...], data: str, name: str, split: Encoded, predictions: Predictions, heldout: Figures
) -> dict[str, str]:
    """Index and chosen label a line."""
    return {f"{data}.tsv": index_lines(labels[label] for label in np.argmax(predictions["class_logits"], -1))}
