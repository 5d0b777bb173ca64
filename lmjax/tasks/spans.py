"""Answers that are spans of a paragraph: SQuAD 1.1 and 2.0, CMRC 2018 (`data.squad`).

A layer on every token says where the answer starts and where it ends; no answer, and one that a window does not show,
is [CLS] (Devlin et al. 2019, sections 4.2 and 4.3, and google-research/bert, run_squad.py). Answers are cut out of the
original text by the characters of their tokens. Padding is no place of an answer; in the original it is one, whose
logits depend on how much of it there is.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lmjax import objectives
from lmjax.data import squad
from lmjax.data.examples import Encoded, digest_of
from lmjax.data.framing import TEXT, frame
from lmjax.data.huggingface import separator_is_doubled
from lmjax.data.splits import hold_out
from lmjax.data.squad import Question
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError
from lmjax.models.task_layers import TaskLayer
from lmjax.models.wrapped import Wrapped
from lmjax.tasks.answers import COMPARE, Candidate, best_match, best_threshold, latin_words, n_best, probabilities
from lmjax.tasks.task import Features, Figures, FilesConfig, Predictions, Supervised, Task, labelled_task
from lmjax.types import Batch, Outputs


@dataclass(frozen=True, kw_only=True)
class SpanConfig(FilesConfig):
    """One of the sets of `data.squad`; held out are whole articles, and a `limit` is of questions.

    `stride`: tokens between the windows of a paragraph. `query_length`: tokens that are read of a question. `n_best`:
    answers that are compared; `answer_length`: tokens of the longest.
    """

    stride: int = 128
    query_length: int = 64
    n_best: int = 20
    answer_length: int = 30


def spans(cfg: SpanConfig) -> Task:
    record = squad.span_set(cfg.data)
    if cfg.frame == "ordered":
        raise UserError(f"{cfg.data}: a causal model knows no token's right side; this task takes an encoder")
    if cfg.frame == "words":
        raise UserError(f"{cfg.data}: a model of whole words finds no part of a text; this task takes BERT or its kin")
    if record.chinese:
        latin_words()  # not only when the first answers are scored
    if min(cfg.stride, cfg.query_length, cfg.n_best, cfg.answer_length) < 1:
        raise UserError("task: stride, query_length, n_best and answer_length must be at least 1")

    def features(rows: int, length: int) -> Features:
        return {
            **{name: jax.ShapeDtypeStruct((rows, length), np.int32) for name in TEXT},
            **{name: jax.ShapeDtypeStruct((rows,), np.int32) for name in ("starts", "ends")},
            "loss_weights": jax.ShapeDtypeStruct((rows,), np.float32),
        }

    def files() -> dict[str, epath.Path]:
        return cfg.files(record.files, ("json",))

    return labelled_task(
        objective=objectives.Objective(objectives.span_terms, {"cross_entropy": 1.0}, ("loss_weights",)),
        features=features,
        headline="f1",
        supervised=Supervised(
            name=cfg.data,
            fingerprint=lambda: digest_of(files().values()),
            encode=lambda tokenizer, length: {
                split: encode(questions, tokenizer, length, cfg, training=split == "train")
                for split, questions in read_splits(cfg, files()).items()
            },
            read=read,
            predict=lambda outputs: {name: outputs[name] for name in ("start_logits", "end_logits")},
            score=partial(score, cfg),
            baselines=partial(baselines, record),
            files=partial(prediction_files, cfg),
            layer=TaskLayer("ForQuestionAnswering"),
        ),
    )


def read_splits(cfg: SpanConfig, files: dict[str, epath.Path]) -> dict[str, list[Question]]:
    """The questions of each split. Raises UserError for bad files, and without held-out questions."""
    splits = {name: squad.read_questions(file, cfg.data, name != "test") for name, file in files.items()}
    return hold_out(splits, cfg.heldout_share, cfg.limit, cfg.folder, lambda question: question.article)


def encode(
    questions: Sequence[Question], tokenizer: Tokenizer, length: int, cfg: SpanConfig, training: bool
) -> Encoded:
    """A row for each window: `TEXT` int32 [rows, length]; starts, ends int [rows], both 0 where the window does not
    show a question's first answer; loss_weights [rows], 0 where that answer is not at its offset. In training such
    questions are left out.

    Notes, unless in training: for each paragraph its context, offsets and questions (id, answers, windows as
    `spans.n_best` takes them).
    """
    asked = tokenizer.encode_batch([question.text for question in questions])
    contexts = list(dict.fromkeys(question.context for question in questions))
    read = dict(zip(contexts, tokenizer.encode_offsets(contexts), strict=True))
    texts, targets, notes = [], [], []
    for context, group in groupby(zip(questions, asked, strict=True), key=lambda pair: pair[0].context):
        ids, offsets = read[context]
        offsets, noted = squad.trimmed(context, offsets), []
        for question, query in group:
            query = query[: cfg.query_length]
            begin = len(query) + 2 + separator_is_doubled(tokenizer)  # of the paragraph in the row
            if length - begin - 1 < 1:
                raise UserError(f"rows of {length} tokens have no room beside question {question.id}; raise length")
            answer = next(iter(question.answers or ()), None)
            right = squad.token_span(offsets, answer) if answer and answer.stands(context) else None
            if training and answer and not right:
                continue
            cut = [(*window, begin) for window in squad.windows(len(ids), length - begin - 1, cfg.stride)]
            for first, count, _ in cut:
                texts.append([query, ids[first : first + count]])
                shown = right and first <= right[0] and right[1] < first + count
                place = [token - first + begin for token in right] if right and shown else [0, 0]
                targets.append([*place, not answer or right is not None])
            answers = question.answers and [a.text for a in question.answers]
            noted.append({"id": question.id, "answers": answers, "windows": cut})
        if not training:
            notes.append({"context": context, "offsets": offsets, "questions": noted})
    columns = np.array(targets, np.int32).reshape(-1, 3).T
    features = frame(texts, tokenizer, length, "separated") | dict(
        zip(("starts", "ends", "loss_weights"), columns, strict=True)
    )
    return Encoded(features, notes, labelled=all(question.answers is not None for question in questions))


def read(model: Wrapped, batch: Batch, train: bool) -> Outputs:
    """start_logits and end_logits float32 [B, L], minus infinity at padding."""
    logits = model.dense("qa_outputs", model.run(batch, train)["hidden"], 2)
    logits = jnp.where(batch["segment_ids"][..., None] > 0, logits, -jnp.inf)
    return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}


def answered(
    cfg: SpanConfig, split: Encoded, predictions: Predictions
) -> Iterator[tuple[dict[str, Any], list[Candidate], float]]:
    """Each question's notes, its n-best answers, and the odds of no answer."""
    unanswerable, row = squad.span_set(cfg.data).unanswerable, 0
    for paragraph in split.notes:
        for question in paragraph["questions"]:
            rows = slice(row, row := row + len(question["windows"]))
            start, end = (predictions[name][rows] for name in ("start_logits", "end_logits"))
            place = (paragraph["context"], paragraph["offsets"], question["windows"])
            best, odds = n_best(*place, start, end, cfg.n_best, cfg.answer_length, unanswerable)
            yield question, best, odds


def best_text(candidates: Sequence[Candidate]) -> str:
    """The best answer that is one."""
    return next(candidate.text for candidate in candidates if candidate.text)


def null_threshold(cfg: SpanConfig, found: Sequence[tuple[dict[str, Any], list[Candidate], float]]) -> float:
    """The odds above which no answer is given, with the best F1 on these questions; where no question is unanswerable,
    infinite."""
    record = squad.span_set(cfg.data)
    if not record.unanswerable:
        return float("inf")
    f1 = COMPARE[record.chinese][1]
    scores = np.array([best_match(f1, question["answers"], best_text(best)) for question, best, _ in found])
    odds = np.array([odd for *_, odd in found])
    return best_threshold(odds, scores, np.array([bool(question["answers"]) for question, *_ in found]))


def score(cfg: SpanConfig, split: Encoded, predictions: Predictions, heldout: Figures) -> dict[str, float]:
    """f1 and exact match; where questions may be unanswerable also apart, with the threshold of the held-out ones,
    which is tuned where those are scored."""
    record, found = squad.span_set(cfg.data), list(answered(cfg, split, predictions))
    threshold = heldout["null_threshold"] if heldout and record.unanswerable else null_threshold(cfg, found)
    texts = ["" if odds > threshold else best_text(best) for _, best, odds in found]
    answers = [question["answers"] for question, _, _ in found]
    figures: dict[str, float] = {}
    for name, compare in zip(("exact", "f1"), COMPARE[record.chinese], strict=True):
        values = np.array([best_match(compare, a, text) for a, text in zip(answers, texts, strict=True)])
        figures[name] = float(values.mean())
        if record.unanswerable:
            for kind, chosen in (
                ("answerable", [bool(a) for a in answers]),
                ("unanswerable", [not a for a in answers]),
            ):
                figures |= {f"{name}_{kind}": float(values[chosen].mean())} if any(chosen) else {}
    return figures | ({"null_threshold": threshold} if record.unanswerable and not heldout else {})


def baselines(record: squad.SpanSet, train: Encoded, heldout: Encoded) -> dict[str, dict[str, float]]:
    """Where questions may be unanswerable, never to answer."""
    if not record.unanswerable:
        return {}
    share = float(np.mean([not question["answers"] for part in heldout.notes for question in part["questions"]]))
    return {name: {"no answer": share} for name in ("f1", "exact")}


def prediction_files(
    cfg: SpanConfig, name: str, split: Encoded, predictions: Predictions, heldout: Figures
) -> dict[str, str]:
    """The original's three files by question ids: the answer, the n-best list, and the odds of no answer. None is given
    above the threshold of the held-out questions."""
    threshold = heldout.get("null_threshold", float("inf"))
    answers, lists, null_odds = {}, {}, {}
    for question, best, odds in answered(cfg, split, predictions):
        answers[question["id"]] = "" if odds > threshold else best_text(best)
        shares = probabilities(best)
        lists[question["id"]] = [
            {"text": c.text, "probability": p, "start_logit": c.start_logit, "end_logit": c.end_logit}
            for c, p in zip(best, shares, strict=True)
        ]
        null_odds[question["id"]] = odds
    files = {"predictions.json": answers, "nbest_predictions.json": lists}
    files |= {"null_odds.json": null_odds} if squad.span_set(cfg.data).unanswerable else {}
    return {file: json.dumps(content, indent=1, ensure_ascii=False) + "\n" for file, content in files.items()}
