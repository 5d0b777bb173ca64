"""Zero- and few-shot tasks put to a model: prompts that fit into it, batches of few shapes, figures by name."""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from lmjax.beam import Beam, continue_texts
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError, did_you_mean
from lmjax.evals.fewshot import TASKS, Task, draw, rows_of
from lmjax.evals.readers import Row, translations, wikitext_detokenized
from lmjax.evals.scoring import RULES, Request, Rule, Score, begun, room, score, split, windows
from lmjax.generate import Sampling, generate
from lmjax.interop import LanguageModel
from lmjax.train.environment import environment
from lmjax.train.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How tasks are put to a model. `limit`: rows of each task (0 = all). `rule` overrules the tasks' own. `beams`:
    texts that are pursued at once where one is generated (0 = one, or four of a model that translates). `stride`:
    tokens that a window of a long text scores (0 = half of the model's positions)."""

    shots: int = 0
    limit: int = 0
    seed: int = 0
    rule: Rule | None = None
    beams: int = 0
    stride: int = 0
    batch_size: int = 16
    progress: bool = False

    def __post_init__(self) -> None:
        if min(self.shots, self.limit, self.beams, self.stride) < 0 or self.batch_size < 1:
            raise UserError("--shots, --limit, --beams and --stride must be 0 or more, --batch-size 1 or more")


@dataclass
class Trial:
    """A task's rows with their demonstrations, and what was done to prompts that were too long."""

    lm: LanguageModel
    task: Task
    protocol: Protocol
    rows: Sequence[Row]
    shots: Sequence[Sequence[Row]]
    demonstrations_dropped: int = 0
    prompts_cut: int = 0


def evaluate(lm: LanguageModel, name: str, data: epath.PathLike, protocol: Protocol) -> dict[str, Any]:
    """A task's metrics, with what they depend on.

    Raises:
      UserError: an unknown task, one that the model cannot do, files that are missing or not as they should be.
    """
    _check(lm, name, protocol)
    task, folder, began = TASKS[name], epath.Path(data).expanduser(), time.monotonic()
    task = task if protocol.shots else task.zero_shot()
    # Demonstrations may come from rows beyond the limit.
    same = protocol.shots and not task.demonstrations
    rows = rows_of(task, folder, task.files, None if same else protocol.limit or None)
    pool = rows_of(task, folder, task.demonstrations) if protocol.shots and task.demonstrations else rows
    rows = rows[: protocol.limit or None]
    shots = [draw(pool, protocol.shots, protocol.seed, number, row) for number, row in enumerate(rows)]
    trial = Trial(lm, task, protocol, rows, shots)
    found = KINDS[task.kind](trial)
    rule = {"rule": protocol.rule or task.rule} if task.kind == "choice" else {}
    return {
        "metrics": found,
        "examples": len(rows),
        **rule,
        "shots": protocol.shots,
        "demonstrations_dropped": trial.demonstrations_dropped,
        "prompts_cut": trial.prompts_cut,
        "seconds": round(time.monotonic() - began, 1),
    }


def run(
    lm: LanguageModel, model: str, names: Sequence[str], data: epath.PathLike, protocol: Protocol, out: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (task, metrics); `out` is written anew after each. Raises UserError as `evaluate` does, before the first
    task is begun where only the model or a name is wrong."""
    for name in names:
        _check(lm, name, protocol)
    written = {"model": model, "protocol": asdict(protocol), "environment": environment(), "tasks": {}}
    for name in names:
        written["tasks"][name] = found = evaluate(lm, name, data, protocol)
        if out:
            write_atomically(out, json.dumps(written, indent=1))
        yield name, found["metrics"]


def _check(lm: LanguageModel, name: str, protocol: Protocol) -> None:
    """Raises UserError for what there is not, or the model cannot do."""
    if name not in TASKS:
        raise UserError(f"unknown task '{name}'{did_you_mean(name, TASKS)}")
    task = TASKS[name]
    kind = type(lm.config).__name__.removesuffix("Config")
    if lm.translates:
        if task.read is not translations or protocol.shots:
            raise UserError(f"{name}: {kind} translates and reads no prompts; it does translation tasks, without shots")
    elif lm.reads_words or not {"clm", "mlm"} & set(lm.heads):
        raise UserError(f"{name}: {kind} with heads {', '.join(lm.heads) or 'none'} does no such task; GPT models do")
    elif not lm.causal and task.kind != "choice":
        raise UserError(f"{name}: {kind} predicts masked words and cannot continue a text; choose a causal model")
    elif task.kind == "perplexity" and protocol.shots:
        raise UserError(f"{name}: the perplexity of a text knows no demonstrations; leave --shots away")
    elif task.kind == "generate" and task.max_new_tokens >= lm.longest - 1:
        need = f"{task.max_new_tokens} new tokens do not fit"
        raise UserError(f"{name}: {need} into the model's {lm.longest} positions")


def fitted(trial: Trial, shots: Sequence[Row], options: Sequence[tuple[str, str]]) -> list[Request]:
    """Tokens of the options behind as many demonstrations as fit; the first are left out before anything is cut."""
    lm, task = trial.lm, trial.task
    shown, new = [task.demonstration(row) for row in shots], task.max_new_tokens + 1 if task.kind == "generate" else 0
    while True:
        texts = [(task.intro + task.between.join([*shown, context]), target) for context, target in options]
        found = [begun(lm, request) for request in split(lm.tokenizer, texts)]
        too_long = any(len(r.context) + len(r.continuation) + new > room(lm) for r in found)
        if not too_long or not shown:
            trial.prompts_cut += too_long
            return found
        shown = shown[1:]
        trial.demonstrations_dropped += 1


def _choose(trial: Trial) -> dict[str, float]:
    """accuracy; chance is what guessing would have."""
    options = [trial.task.options(row) for row in trial.rows]
    requests = [fitted(trial, shots, option) for shots, option in zip(trial.shots, options, strict=True)]
    flat = list(itertools.chain.from_iterable(options))
    scores = _score(trial, list(itertools.chain.from_iterable(requests)))
    rule: Rule = trial.protocol.rule or trial.task.rule
    alone = np.zeros(len(flat))
    if rule == "unconditional":
        bare = split(trial.lm.tokenizer, [("Answer:", f" {target.strip()}") for _, target in flat])
        alone = [s.log_probabilities.sum() for s in _score(trial, bare)]
    values = iter([RULES[rule](s, o.target.strip(), float(a)) for s, o, a in zip(scores, flat, alone, strict=True)])
    golds = [row[trial.task.gold] for row in trial.rows]
    shares = [_share([next(values) for _ in o], gold) for o, gold in zip(options, golds, strict=True)]
    return {"accuracy": float(np.mean(shares)), "chance": float(np.mean([1 / len(o) for o in options]))}


def _share(values: Sequence[float], gold: int) -> float:
    """1 for the best answer; k that are equally good share it. Raises UserError where a value is not a number."""
    if np.isnan(values).any():
        raise UserError("the model's probabilities are not numbers; its weights are damaged, or training diverged")
    best = np.equal(values, np.max(values))
    return float(best[gold] / best.sum())


def _foresee(trial: Trial) -> dict[str, float]:
    """accuracy: each token of the target was the likeliest; perplexity of the target, as one word."""
    rows, tokenizer = zip(trial.shots, trial.rows, strict=True), trial.lm.tokenizer
    forms = [f" {form}" for word in sorted(trial.task.barred) for form in (word, word.capitalize())]
    barred = {ids[0] for ids in tokenizer.encode_batch(forms) if len(ids) == 1}  # others are no one's first token alone
    requests = [fitted(trial, shots, trial.task.options(row))[0] for shots, row in rows]
    scores = _score(trial, requests, sorted(barred))
    sums = [s.log_probabilities.sum(dtype=np.float64) for s in scores]
    return {"accuracy": float(np.mean([s.greedy for s in scores])), "perplexity": float(np.exp(-np.mean(sums)))}


def _generate(trial: Trial) -> dict[str, float | str]:
    """What the task's metric says of text that is greedy, drawn among the top k, or found by beam search."""
    task, rows, protocol = trial.task, trial.rows, trial.protocol
    if trial.lm.translates:
        beam = Beam(protocol.beams or 4)
        texts = trial.lm.translate([row["source"] for row in rows], beam, protocol.batch_size)
    else:
        contexts = [_cut(trial, shots, row) for shots, row in zip(trial.shots, rows, strict=True)]
        if task.top_k == 1 and protocol.beams > 1:
            how = Beam(protocol.beams, max_extra=task.max_new_tokens)
        else:
            how = Sampling(task.max_new_tokens, temperature=0.0 if task.top_k == 1 else 1.0, top_k=task.top_k)
        batches: Any = {"batch_size": protocol.batch_size, "seed": protocol.seed, "progress": protocol.progress}
        texts = [task.finish(text) for text in continued(trial.lm, contexts, how, **batches)]
    return task.metric(texts, [task.accepted(row) for row in rows])


def _cut(trial: Trial, shots: Sequence[Row], row: Row) -> list[int]:
    """The prompt's tokens; of one that is too long alone the beginning is cut off, or what stands before the cue."""
    lm, task = trial.lm, trial.task
    context, _ = task.options(row)[0]
    ((tokens, _),) = fitted(trial, shots, [(context, "")])
    most = lm.longest - task.max_new_tokens
    if len(tokens) <= most:
        return list(tokens)
    cue = lm.tokenizer.encode(task.cue) if task.cue else []
    return [*tokens[: most - len(cue)], *cue] if cue else list(tokens[-most:])


def continued(
    lm: LanguageModel,
    contexts: Sequence[Sequence[int]],
    how: Sampling | Beam,
    *,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> list[str]:
    """New text behind each prompt, a beam's up to the end of a line; the longest prompts first, every batch of one
    size."""
    ends = _line_ends(lm.tokenizer) if isinstance(how, Beam) else []
    order, texts = sorted(range(len(contexts)), key=lambda i: -len(contexts[i])), [""] * len(contexts)
    for start in tqdm(range(0, len(order), batch_size), "generate", unit=" batches", disable=not progress):
        places = order[start : start + batch_size]
        batch = [contexts[i] for i in places] + [contexts[places[0]]] * (batch_size - len(places))
        if isinstance(how, Beam):
            new = [found.tokens for found in continue_texts(lm.config, lm.params, batch, how, ends)]
        else:
            new = generate(lm.config, lm.params, batch, how, eos_id=lm.tokenizer.eos_id, seed=seed + start)
        for place, tokens in zip(places, new, strict=False):
            texts[place] = lm.tokenizer.decode(tokens)
    return texts


def _line_ends(tokenizer: Tokenizer) -> list[int]:
    """The tokens that end a line, or the text."""
    lines = (token for token in range(tokenizer.vocab_size) if "\n" in tokenizer.decode([token]))
    return sorted({*lines, *([] if tokenizer.eos_id is None else [tokenizer.eos_id])})


def _read(trial: Trial) -> dict[str, float]:
    """Perplexity of WikiText's words as the file has them: what all tokens of the detokenised text cost, a word."""
    lm, protocol = trial.lm, trial.protocol
    texts = [row["text"] for row in trial.rows]
    words, length = sum(len(text.split()) for text in texts), lm.longest
    stride = protocol.stride or length // 2
    if not 1 <= stride <= length:
        raise UserError(f"--stride {stride} is not within 1 and the model's {length} positions")
    requests: list[Request] = []
    for tokens in lm.tokenizer.encode_batch([wikitext_detokenized(text) for text in texts]):
        (first,) = begun(lm, Request((), tokens)).context
        requests += windows(tokens, first, length, stride)
    total = -sum(s.log_probabilities.sum(dtype=np.float64) for s in _score(trial, requests))
    tokens = sum(len(request.continuation) for request in requests)
    perplexities = {"word_perplexity": float(np.exp(total / words)), "token_perplexity": float(np.exp(total / tokens))}
    return {**perplexities, "words": words, "tokens": tokens}


def _score(trial: Trial, requests: Sequence[Request], barred: Sequence[int] = ()) -> list[Score]:
    return score(trial.lm, requests, trial.protocol.batch_size, "score" if trial.protocol.progress else "", barred)


KINDS: Mapping[str, Callable[[Trial], Mapping[str, float | str]]] = {
    "choice": _choose,
    "word": _foresee,
    "generate": _generate,
    "perplexity": _read,
}
