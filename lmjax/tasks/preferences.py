"""What tasks on people's rankings share: their files, their rows, and how well margins order pairs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath

from lmjax.data.examples import digest_of
from lmjax.data.preferences import Ranking, answer_tokens, form, read_ranked
from lmjax.data.splits import hold_out
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError
from lmjax.metrics import clustered_error
from lmjax.models.wrapped import Wrapped
from lmjax.tasks.task import FilesConfig

BINS = 10  # of predicted probabilities, from a half to one
QUARTERS = 4  # of pairs, by how far apart they are


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(FilesConfig):
    """`data`: one of the forms of `data.preferences`. `template`: the name of a chat template, instead of the model's
    own."""

    template: str = ""


def check_causal(model: Wrapped) -> None:
    """Raises UserError for a model that does not write texts, and so cannot be tuned to write better ones."""
    if "cache" not in model.architecture.inputs:
        kind = type(model.cfg).__name__.removesuffix("Config")
        raise UserError(f"{kind} is no causal model; preferences are learned by one that answers (GPT)")


def found_files(cfg: PreferenceConfig) -> dict[str, epath.Path]:
    return cfg.files(form(cfg.data).files, form(cfg.data).kinds)


def fingerprint(cfg: PreferenceConfig) -> str:
    return digest_of(found_files(cfg).values())


def read_splits(cfg: PreferenceConfig) -> dict[str, list[Ranking]]:
    """The rankings of each split; what is held out of the training file are whole prompts. Raises UserError for bad
    files, and without held-out rankings."""
    splits = {split: read_ranked(file, cfg.data) for split, file in found_files(cfg).items()}
    return hold_out(splits, cfg.heldout_share, cfg.limit, cfg.folder, lambda ranking: ranking.turns)


def framed(
    found: Sequence[Ranking], tokenizer: Tokenizer, cfg: PreferenceConfig, length: int, split: str
) -> Iterator[tuple[Ranking, list[list[int]], int]]:
    """Each ranking with its texts, prompt and answer, as tokens, and the prompt's length.

    Texts lose what reaches beyond `length`; prompts that leave no room for an answer are left out, as Ouyang et al.
    2022 do (appendix C). Either is counted on the screen. Raises UserError where nothing is left.
    """
    kept = dropped = cut = 0
    for ranking in found:
        texts, prompt = answer_tokens(tokenizer, ranking.turns, ranking.answers)
        if prompt >= length:
            dropped += 1
            continue
        kept += 1
        cut += sum(len(text) > length for text in texts)
        yield ranking, [text[:length] for text in texts], prompt
    if dropped or cut:
        left_out = f"{dropped} of {len(found)} prompts left out, longer than {length} tokens"
        print(f"{cfg.data}, {split}: {left_out}; {cut} answers of the others cut off there", flush=True)
    if not kept:
        raise UserError(f"{cfg.data}, {split}: every prompt is longer than the {length} tokens of a row; raise length")


def pair_figures(margins: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """How well margins order pairs.

    accuracy (an undecided pair counts a half) with its standard error over whole `groups`, prompts; the expected
    calibration error (Guo et al. 2017, equation 3) of the probability sigmoid(|margin|) of the preferred side, in
    `BINS` equal bins; the mean margin; and accuracy_quarter_1 .. 4, by |margin| from the smallest.

    Args:
      margins: float [pairs], of what people preferred over the other. groups: int [pairs].
    """
    right = np.where(margins == 0, 0.5, margins > 0)
    table = calibration(margins)
    error = sum(bin["pairs"] * abs(bin["predicted"] - bin["observed"]) for bin in table) / len(margins)
    quarters = np.array_split(right[np.argsort(np.abs(margins), kind="stable")], QUARTERS)
    return {
        "accuracy": float(right.mean()),
        "accuracy_error": clustered_error(right, groups),
        "calibration_error": float(error),
        "margin": float(margins.mean(dtype=np.float64)),
        **{f"accuracy_quarter_{i}": float(part.mean()) for i, part in enumerate(quarters, 1) if len(part)},
    }


def calibration(margins: np.ndarray) -> list[dict[str, float]]:
    """Of each bin that has pairs: how many, the mean predicted probability, and how often it came true."""
    p, right = 1 / (1 + np.exp(-np.abs(margins.astype(np.float64)))), np.where(margins == 0, 0.5, margins > 0)
    number = np.minimum(((p - 0.5) * 2 * BINS).astype(int), BINS - 1)
    return [
        {"pairs": int(here.sum()), "predicted": float(p[here].mean()), "observed": float(right[here].mean())}
        for here in (number == i for i in range(BINS))
        if here.any()
    ]
