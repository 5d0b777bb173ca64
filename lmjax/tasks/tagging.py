"""A tag for each word: the named entities of CoNLL-2003 and MSRA (`data.tagged`).

A layer on each word's first sub-token chooses among IOB2 tags, each for itself (Devlin et al. 2019, section 5.3). A
sentence that is longer than a row goes on in the next one. With `context` "document" a row is filled with what follows
in the document, whose tags weigh nothing there.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lmjax import objectives
from lmjax.data.examples import Encoded, digest_of
from lmjax.data.framing import TEXT, frame
from lmjax.data.splits import hold_out
from lmjax.data.tagged import Sentence, TaggedSet, read_sentences, tagged_set
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError
from lmjax.metrics import entity_scores
from lmjax.models.task_layers import TaskLayer
from lmjax.models.wrapped import Wrapped
from lmjax.tasks.task import Features, Figures, FilesConfig, Predictions, Supervised, Task, labelled_task
from lmjax.types import Batch, Outputs

Context = Literal["sentence", "document"]


@dataclass(frozen=True, kw_only=True)
class TaggingConfig(FilesConfig):
    """One of the sets of `data.tagged`; held out are whole documents (sentences, where no -DOCSTART- begins one), and a
    `limit` is of sentences."""

    context: Context = "sentence"


def tagging(cfg: TaggingConfig) -> Task:
    record = tagged_set(cfg.data)
    if cfg.frame == "ordered":
        raise UserError(f"{cfg.data}: a causal model knows no word's right side; this task takes an encoder")

    def features(rows: int, length: int) -> Features:
        kinds = {**dict.fromkeys((*TEXT, "labels"), np.int32), "loss_weights": np.float32}
        return {name: jax.ShapeDtypeStruct((rows, length), kind) for name, kind in kinds.items()}

    def files() -> dict[str, epath.Path]:
        return cfg.files(record.files, ("txt",))

    def encode_splits(tokenizer: Tokenizer, length: int) -> dict[str, Encoded]:
        splits = {name: read_sentences(file, cfg.data) for name, file in files().items()}
        documents = len({sentence.document for sentence in splits.get("train", [])})
        group = (lambda sentence: sentence.document) if documents > 1 else None
        splits = hold_out(splits, cfg.heldout_share, 0, cfg.folder, group)
        encoded = {}
        for split, sentences in splits.items():
            chosen = None
            if split == "train" and cfg.limit:  # what follows a sentence is its context, chosen or not
                chosen = set(np.random.default_rng(0).permutation(len(sentences))[: cfg.limit].tolist())
            encoded[split] = encode(sentences, tokenizer, length, record, cfg.context, chosen)
        if "train" in encoded:
            encoded["train"] = replace(encoded["train"], notes=[])  # nobody asks for its words
        return encoded

    terms = partial(objectives.class_terms, weights="loss_weights")
    return labelled_task(
        objective=objectives.Objective(terms, {"cross_entropy": 1.0}, ("loss_weights",)),
        features=features,
        headline="f1",
        supervised=Supervised(
            name=cfg.data,
            fingerprint=lambda: digest_of(files().values()),
            encode=encode_splits,
            read=partial(read, outputs_of=len(record.labels)),
            predict=lambda outputs: {"labels": jnp.argmax(outputs["class_logits"], -1)},
            score=partial(score, record),
            baselines=baselines,
            files=partial(prediction_files, record),
            layer=TaskLayer("ForTokenClassification", record.labels),
        ),
    )


def encode(
    sentences: list[Sentence],
    tokenizer: Tokenizer,
    length: int,
    record: TaggedSet,
    context: Context,
    chosen: set[int] | None = None,
) -> Encoded:
    """`TEXT`, labels and loss_weights int32 [rows, length]; loss_weights is 1 at the first sub-token of the row's own
    words. Notes: the words of each sentence. `chosen`: numbers of the sentences that get rows, else all do."""
    room = length - 2
    if room < 1:
        raise UserError(f"rows of {length} tokens hold no text beside the special tokens; raise length")
    unknown = [tokenizer.unk_id or 0]
    words = list(dict.fromkeys(word for sentence in sentences for word in sentence.words))
    ids = tokenizer.encode_batch([f" {word}" for word in words])
    known = {word: (found or unknown)[:room] for word, found in zip(words, ids, strict=True)}
    pieces = [[known[word] for word in sentence.words] for sentence in sentences]
    streams: dict[int, list[int]] = {}
    for sentence, cut in zip(sentences, pieces, strict=True):
        streams.setdefault(sentence.document, []).extend(id for word in cut for id in word)
    begins = dict.fromkeys(streams, 0)
    texts, firsts, tags = [], [], []  # of rows: tokens, places of first sub-tokens, and their tags
    for number, (sentence, cut) in enumerate(zip(sentences, pieces, strict=True)):
        begin, starts = begins[sentence.document], np.cumsum([0, *map(len, cut)])
        begins[sentence.document] += int(starts[-1])
        word = 0
        while word < len(cut) and (chosen is None or number in chosen):
            end = int(np.searchsorted(starts, starts[word] + room, side="right")) - 1  # whole words that fit
            size = room if context == "document" else int(starts[end] - starts[word])
            first = begin + int(starts[word])
            texts.append([streams[sentence.document][first : first + size]])
            firsts.append(1 + starts[word:end] - starts[word])
            tags.append([record.labels.index(tag) for tag in sentence.tags[word:end]])
            word = end
    features = frame(texts, tokenizer, length, "separated")
    labels, weights = np.zeros_like(features["tokens"]), np.zeros_like(features["tokens"])
    for row, (places, ids) in enumerate(zip(firsts, tags, strict=True)):
        labels[row, places], weights[row, places] = ids, 1
    notes = [list(sentence.words) for number, sentence in enumerate(sentences) if chosen is None or number in chosen]
    return Encoded(features | {"labels": labels, "loss_weights": weights}, notes)


def read(model: Wrapped, batch: Batch, train: bool, outputs_of: int) -> Outputs:
    """class_logits float32 [B, L, C]."""
    hidden = model.dropout(model.run(batch, train)["hidden"], train)
    return {"class_logits": model.dense("classifier", hidden, outputs_of)}


def tags_of(record: TaggedSet, split: Encoded, labels: np.ndarray) -> list[list[str]]:
    """The tags of each sentence, from ids [rows, L]."""
    ids = iter(labels[np.asarray(split.features["loss_weights"]) > 0].tolist())  # the words, in order
    return [[record.labels[next(ids)] for _ in words] for words in split.notes]


def score(record: TaggedSet, split: Encoded, predictions: Predictions, heldout: Figures) -> dict[str, float]:
    """Precision, recall and F1 of entities as conlleval counts them; and F1 where I- begins none (strict IOB2)."""
    right = tags_of(record, split, np.asarray(split.features["labels"]))
    found = tags_of(record, split, predictions["labels"])
    precision, recall, f1 = entity_scores(right, found)
    return {"f1": f1, "precision": precision, "recall": recall, "strict_f1": entity_scores(right, found, True)[2]}


def baselines(train: Encoded, heldout: Encoded) -> dict[str, dict[str, float]]:
    """The share of words that are no entity's; of entities, finding none gives 0."""
    words = np.asarray(heldout.features["loss_weights"]) > 0
    return {"accuracy": {"no entity": float(np.mean(np.asarray(heldout.features["labels"])[words] == 0))}}


def prediction_files(
    record: TaggedSet, name: str, split: Encoded, predictions: Predictions, heldout: Figures
) -> dict[str, str]:
    """conlleval's columns: word, tag, predicted tag; a blank line behind each sentence."""
    right = tags_of(record, split, np.asarray(split.features["labels"]))
    found = tags_of(record, split, predictions["labels"])
    sentences = (
        "".join(f"{' '.join(columns)}\n" for columns in zip(*sentence, strict=True))
        for sentence in zip(split.notes, right, found, strict=True)
    )
    return {"predictions.txt": "\n".join([*sentences, ""])}
