"""Metrics of generated text: exact match after each benchmark's own normalisation, BLEU and ROUGE by their libraries.

Each takes the texts and, for each text, the references, and returns figures by name.
"""

import string
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from lmjax.errors import UserError
from lmjax.tasks.answers import normalize

References = Sequence[Sequence[str]]
Metric = Callable[[Sequence[str], References], dict[str, float | str]]


def nq_normalized(text: str) -> str:
    """NQ-open's: SQuAD's, of text whose accents stand apart (Unicode NFD)."""
    return normalize(unicodedata.normalize("NFD", text))


def triviaqa_normalized(text: str) -> str:
    """TriviaQA's: SQuAD's, but that underscores, punctuation and four more quotation marks become spaces."""
    marks = string.punctuation + "‘’´`"
    return normalize("".join(" " if c in marks else c for c in text))


def exact_match(normalized: Callable[[str], str] = str.strip) -> Metric:
    """The share of texts that equal one of their references."""

    def metric(texts: Sequence[str], references: References) -> dict[str, float | str]:
        hits = [
            normalized(text) in {normalized(reference) for reference in accepted}
            for text, accepted in zip(texts, references, strict=True)
        ]
        return {"exact_match": float(np.mean(hits))}

    return metric


def bleu(tokenize: str = "13a") -> Metric:
    """sacreBLEU's corpus figure, 0 to 100, and its signature (Post 2018); one reference each."""

    def metric(texts: Sequence[str], references: References) -> dict[str, float | str]:
        try:
            from sacrebleu.metrics.bleu import BLEU
        except ImportError:
            raise UserError("sacrebleu is not installed, and BLEU needs it: pip install lmjax[eval]") from None
        scorer = BLEU(tokenize=tokenize)
        score = scorer.corpus_score(list(texts), [[reference for (reference,) in references]])
        return {"bleu": score.score, "signature": str(scorer.get_signature())}

    return metric


def rouge(texts: Sequence[str], references: References) -> dict[str, float | str]:
    """F1 of ROUGE-1, -2 and -L over the whole summary (rougeLsum: a line is a sentence), and their mean; of the
    rouge-score library, with stemming; 0 to 100."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UserError("rouge-score is not installed, and ROUGE needs it: pip install lmjax[eval]") from None
    kinds = ("rouge1", "rouge2", "rougeLsum")
    scorer = RougeScorer(kinds, use_stemmer=True)
    rows = [scorer.score(reference, text) for text, (reference,) in zip(texts, references, strict=True)]
    found = {kind: 100 * float(np.mean([row[kind].fmeasure for row in rows])) for kind in kinds}
    return {**found, "rouge_mean": float(np.mean(list(found.values())))}
