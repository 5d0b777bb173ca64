"""Labels of texts and of pairs of texts, and scores of pairs: GLUE's tasks and two Chinese sets (`data.labelled`).

Encoders put a layer on the pooled first token (Devlin et al. 2019, section 4.1; Liu et al. 2019). Decoders read ordered
texts and put it on the last token; where the two texts might change places, both orders are read and their last states
added; the language-model loss goes on beside (Radford et al. 2018, sections 3.2 and 3.3; there it is a mean within each
row first, here over all tokens).
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lmjax import objectives
from lmjax.data.examples import Encoded, digest_of
from lmjax.data.framing import NEW_TOKENS, TEXT, Frame, frame, next_tokens
from lmjax.data.labelled import KINDS, Example, LabelledSet, labelled_set, read_file, read_tfds
from lmjax.data.splits import hold_out
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError
from lmjax.metrics import METRICS
from lmjax.models.task_layers import TaskLayer
from lmjax.models.wrapped import Wrapped
from lmjax.tasks.task import Features, Figures, FilesConfig, Predictions, Supervised, Task, index_lines, labelled_task
from lmjax.types import Array, Batch, Outputs


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig(FilesConfig):
    """One of the sets of `data.labelled`.

    `source` "tfds": TensorFlow Datasets' copy, in `data_dir` or its default directory. `language_model`: the
    coefficient of the language-model loss, for decoders.
    """

    source: Literal["files", "tfds"] = "files"
    data_dir: str = ""
    language_model: float = 0.5


def classification(cfg: ClassificationConfig) -> Task:
    record = labelled_set(cfg.data)
    ordered, number = cfg.frame == "ordered", not record.labels
    orders = 2 if ordered and record.symmetric else 1
    coefficient = cfg.language_model if ordered else 0.0

    def features(rows: int, length: int) -> Features:
        text = (rows, orders, length) if orders > 1 else (rows, length)
        kinds = {"targets": np.int32, "loss_weights": np.float32} if coefficient else {}
        return {
            **{name: jax.ShapeDtypeStruct((rows, orders * length), kind) for name, kind in kinds.items()},
            **{name: jax.ShapeDtypeStruct(text, np.int32) for name in TEXT},
            "labels": jax.ShapeDtypeStruct((rows,), np.float32 if number else np.int32),
            "example_weights": jax.ShapeDtypeStruct((rows,), np.float32),
        }

    name, terms = "cross_entropy", objectives.class_terms
    if number:
        name, terms = "squared_error", objectives.regression_terms
    return labelled_task(
        heads=("pooler", "clm") if coefficient else ("pooler",),
        objective=objectives.with_language_model(terms, name, coefficient),
        features=features,
        headline=record.metrics[0],
        supervised=Supervised(
            name=cfg.data,
            fingerprint=lambda: "" if cfg.source == "tfds" else digest_of(_files(cfg).values()),
            encode=lambda tokenizer, length: {
                split: encode(examples, tokenizer, length, cfg.frame, orders, bool(coefficient))
                for split, examples in read_splits(cfg).items()
            },
            read=partial(read, outputs_of=1 if number else len(record.labels)),
            predict=lambda outputs: {"class_logits": outputs["class_logits"]},
            score=partial(score, record),
            baselines=partial(baselines, record),
            files=partial(files, record),
            layer=TaskLayer("ForSequenceClassification", record.labels),
            new_tokens=NEW_TOKENS[cfg.frame],
            sequences=orders,
        ),
        language_model=bool(coefficient),
    )


def read_splits(cfg: ClassificationConfig) -> dict[str, list[Example]]:
    """The examples of each split. Raises UserError for bad files, and without held-out examples."""
    if cfg.source == "tfds" and (cfg.train or cfg.heldout or cfg.heldout_share):
        raise UserError("task: TensorFlow Datasets has splits of its own; train, heldout, heldout_share are of files")
    if cfg.source == "tfds" and not cfg.alone:
        splits = dict(read_tfds(cfg.data, cfg.data_dir))
    else:
        files = _files(cfg)
        splits = {split: read_file(file, cfg.data, not split.startswith("test")) for split, file in files.items()}
    return hold_out(splits, cfg.heldout_share, cfg.limit, cfg.folder)


def _files(cfg: ClassificationConfig) -> dict[str, epath.Path]:
    return cfg.files(labelled_set(cfg.data).files, KINDS)


def encode(
    examples: list[Example], tokenizer: Tokenizer, length: int, kind: Frame, orders: int, language_model: bool
) -> Encoded:
    """`TEXT` int32 [rows, length], or [rows, 2, length] where both orders are read; labels [rows]; for a language model
    targets and loss_weights [rows, orders * length]."""
    ids = iter(tokenizer.encode_batch([text for example in examples for text in example.texts]))
    parts = [[next(ids) for _ in example.texts] for example in examples]
    ways = [frame(parts, tokenizer, length, kind)]
    if orders == 2:
        ways.append(frame([part[::-1] for part in parts], tokenizer, length, kind))
    features = {name: np.stack([way[name] for way in ways], 1) for name in TEXT}
    if language_model:
        features |= next_tokens(features)
    features |= {name: features[name][:, 0] for name in TEXT if orders == 1}
    labels = [example.label for example in examples]
    return Encoded({**features, "labels": np.array([label or 0 for label in labels])}, [], labelled=None not in labels)


def read(model: Wrapped, batch: Batch, train: bool, outputs_of: int) -> Outputs:
    """class_logits float32 [B, C]; with a language model its logits too."""
    vectors, outputs = read_texts(model, batch, train)
    logits = model.dense("classifier", model.dropout(jnp.sum(vectors, 1), train), outputs_of)
    return {"class_logits": logits, **outputs}


def read_texts(model: Wrapped, batch: Batch, train: bool) -> tuple[Array, Outputs]:
    """One vector [B, N, D] of each of the N texts of a row; and of a language model its logits, a row's texts in one.

    `TEXT` of the batch: [B, N, L], or [B, L] where N is 1.
    """
    B, *_, L = batch["tokens"].shape
    names = (*TEXT, "characters") if "characters" in batch else TEXT
    flat = {name: batch[name].reshape(-1, L, *batch[name].shape[batch["tokens"].ndim :]) for name in names}
    texts = len(flat["tokens"]) // B
    outputs = model.run({**flat, "example_weights": jnp.repeat(batch["example_weights"], texts)}, train)
    vectors = model.vector(outputs, flat)
    vectors = vectors.reshape(B, -1, vectors.shape[-1])
    if "logits" not in outputs:
        return vectors, {}
    words = outputs["logits"]
    return vectors, {"logits": words.replace(hidden_BLD=words.hidden_BLD.reshape(B, -1, words.hidden_BLD.shape[-1]))}


def answers(record: LabelledSet, predictions: Predictions) -> np.ndarray:
    """Ids of labels, or numbers cut to what is possible, [rows]."""
    logits = predictions["class_logits"]
    return np.argmax(logits, -1) if record.labels else np.clip(logits[:, 0], record.low, record.high)


def score(record: LabelledSet, split: Encoded, predictions: Predictions, heldout: Figures) -> dict[str, float]:
    found = answers(record, predictions)
    return {name: METRICS[name](np.asarray(split.features["labels"]), found) for name in record.metrics}


def baselines(record: LabelledSet, train: Encoded, heldout: Encoded) -> dict[str, dict[str, float]]:
    """What the most frequent label of the training rows gives; of numbers there is no such thing."""
    if not record.labels:
        return {}
    majority = np.full(len(heldout), np.bincount(train.features["labels"]).argmax())
    return {name: {"majority": METRICS[name](heldout.features["labels"], majority)} for name in record.metrics}


def files(record: LabelledSet, name: str, split: Encoded, predictions: Predictions, heldout: Figures) -> dict[str, str]:
    """GLUE's submission format; labels by their official strings, scores with three decimals."""
    found = answers(record, predictions)
    shown = [record.labels[i] for i in found] if record.labels else [f"{value:.3f}" for value in found]
    return {f"{record.submission[name]}.tsv": index_lines(shown)}
