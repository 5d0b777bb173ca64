"""Zero- and few-shot tasks, each a small record: its files, its prompt, what is asked for and how it is measured.

Prompts follow the printed examples of the GPT-3 paper (Brown et al. 2020, appendix G) and, for summaries, GPT-2's
(Radford et al. 2019, section 3.6), as far as the files' own columns allow: those of PIQA, ARC, BoolQ and TriviaQA hold
a question's frame already, which is not quite the paper's.
"""

import itertools
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath

from lmjax.data.sentences import split_sentences
from lmjax.errors import UserError, did_you_mean
from lmjax.evals.generated import Metric, bleu, exact_match, nq_normalized, rouge, triviaqa_normalized
from lmjax.evals.readers import (
    Reader,
    Row,
    completions,
    json_lines,
    minimal_pairs,
    news,
    openbookqa,
    translations,
    wiki_articles,
)
from lmjax.evals.scoring import Rule
from lmjax.evals.stop_words import STOP_WORDS


class Option(NamedTuple):
    """What is read, and what may follow it."""

    context: str
    target: str


def first_line(text: str) -> str:
    return text.partition("\n")[0].strip()


def three_sentences(text: str) -> str:
    """A line each, as the reference summaries have them (GPT-2 takes three of what it generates)."""
    return "\n".join(sentence.strip() for sentence in split_sentences(text)[:3])


@dataclass(frozen=True, kw_only=True)
class Task:
    """An evaluation, declared. `context`, `cue` and `target` are formatted with a row's columns, and so is `unshown`.

    Attributes:
      kind: "choice" (the likeliest option), "word" (is the target foreseen, and how likely is it), "generate" (text,
        measured by `metric`) or "perplexity" (of `context`, a whole text).
      files: below the data folder; globs are possible.
      read: makes rows of them.
      context: what is read. Where {choice} stands in it, options differ in what is read and are judged by the same
        words behind it: partial evaluation (Trinh and Le 2018).
      cue: the end of what is read; where a prompt is too long and has a cue, the context is cut before it.
      target: what follows the context.
      intro: what stands once before all, demonstrations or none.
      unshown: the context where no demonstration shows what is wanted; "" = as with them.
      choices, gold: the columns of the options ({choice}) and of the right one's number.
      barred: words that are not taken for foreseen ones, with a capital or without.
      references: the column of the accepted answers; without it the target is the one.
      rule: how options are valued; see `scoring.RULES`.
      demonstrations: files of other rows to draw them from.
      between: what stands between demonstrations.
      finish: what is kept of a generated text; new tokens are drawn among the `top_k` likeliest.
    """

    kind: Literal["choice", "word", "generate", "perplexity"]
    files: tuple[str, ...]
    read: Reader = json_lines
    context: str
    cue: str = ""
    target: str = ""
    intro: str = ""
    unshown: str = ""
    choices: str = ""
    gold: str = "gold"
    barred: frozenset[str] = frozenset()
    references: str = ""
    rule: Rule = "sum"
    demonstrations: tuple[str, ...] = ()
    between: str = "\n\n"
    metric: Metric = exact_match()
    max_new_tokens: int = 16
    top_k: int = 1
    finish: Callable[[str], str] = first_line

    @cached_property
    def columns(self) -> dict[str, type]:
        """What each row must have."""
        parts = string.Formatter().parse(self.context + self.unshown + self.cue + self.target)
        fields = {field.partition("[")[0] for _, field, *_ in parts if field}
        lists = {name: list for name in (self.choices, self.references) if name}
        return dict.fromkeys(sorted(fields - {"choice"}), str) | lists | ({self.gold: int} if self.choices else {})

    def zero_shot(self) -> "Task":
        return replace(self, context=self.unshown or self.context)

    def options(self, row: Row) -> list[Option]:
        rows = [{**row, "choice": choice} for choice in (row[self.choices] if self.choices else [""])]
        return [Option((self.context + self.cue).format_map(r), self.target.format_map(r)) for r in rows]

    def demonstration(self, row: Row) -> str:
        return "".join(self.options(row)[row[self.gold] if self.choices else 0])

    def accepted(self, row: Row) -> list[str]:
        return row[self.references] if self.references else [self.target.format_map(row).strip()]


def rows_of(task: Task, folder: epath.Path, files: Sequence[str], limit: int | None = None) -> list[Row]:
    """The rows of a task's files, the first `limit` of them.

    Raises:
      UserError: a file that is not there or cannot be read, a missing column, one of another type, an empty text.
    """
    paths = [path for name in files for path in (sorted(folder.glob(name)) if "*" in name else [folder / name])]
    for name, path in itertools.zip_longest(files, paths[: len(files)]):
        if path is None or not path.exists():
            raise UserError(f"no file {folder / name}; --data or LMJAX_DATA names the folder that holds it")
    rows = []
    for where, row in itertools.islice(task.read(paths), limit):
        for name, kind in task.columns.items():
            if name not in row:
                raise UserError(f"{where}: no column '{name}'{did_you_mean(name, row)}")
            if not isinstance(row[name], kind):
                raise UserError(f"{where}: column '{name}' is {type(row[name]).__name__}, not {kind.__name__}")
            texts = {int: [], str: [row[name]], list: row[name] or [""]}[kind]
            if other := [x for x in texts if not isinstance(x, str)]:
                raise UserError(f"{where}: column '{name}' holds {other[0]!r}, which is no text")
            if not all(map(str.strip, texts)):
                raise UserError(f"{where}: column '{name}' is empty")
        if task.choices and not 0 <= row[task.gold] < len(row[task.choices]):
            raise UserError(f"{where}: column '{task.gold}' is {row[task.gold]} of {len(row[task.choices])} choices")
        rows.append(row)
    if not rows:
        raise UserError(f"{paths[0]} holds no rows")
    return rows


def draw(pool: Sequence[Row], count: int, seed: int, number: int, row: Row) -> list[Row]:
    """`count` demonstrations for the row of that number, drawn without replacement and never the row itself.

    Raises:
      UserError: the pool is too small.
    """
    if not count:
        return []
    order = np.random.default_rng([seed, number]).permutation(len(pool))
    found = list(itertools.islice((pool[i] for i in order if pool[i] != row), count))
    if len(found) < count:
        raise UserError(f"{count} demonstrations were asked for, and there are {len(found)} rows to draw from")
    return found


def _choice(file: str, rule: Rule, **fields: Any) -> Task:
    return Task(kind="choice", files=(f"gpt_eval/{file}.jsonl",), choices="choices", rule=rule, **fields)


def _partial(file: str) -> Task:
    files, target = (f"gpt_eval/{file}.jsonl",), " {continuation}"
    return Task(kind="choice", files=files, choices="context_options", context="{choice}", target=target)


def _translate(into: str, files: tuple[str, str], demonstrations: tuple[str, ...] = (), tokenize: str = "13a") -> Task:
    prompt: dict[str, Any] = {"context": "{source} =", "target": " {target}", "between": "\n", "max_new_tokens": 64}
    prompt["unshown"] = f"Q: What is the {into} translation of {{source}} A:"
    return Task(
        kind="generate", files=files, read=translations, demonstrations=demonstrations, metric=bleu(tokenize), **prompt
    )


def _multi30k(source: str, target: str) -> Task:
    def pair(split: str) -> tuple[str, str]:
        return f"multi30k/{split}.{source}.gz", f"multi30k/{split}.{target}.gz"

    into = {"en": "English", "de": "German", "fr": "French"}[target]
    return _translate(into, pair("test_2016_flickr"), pair("train"))


def _completion(file: str, between: str, intro: str = "") -> Task:
    prompt: dict[str, Any] = {"context": "{context}", "target": " {completion}", "between": between, "intro": intro}
    return Task(kind="generate", files=(f"gpt3_tasks/{file}",), read=completions, **prompt)


_LAMBADA: dict[str, Any] = {"kind": "word", "files": ("gpt_eval/lambada_openai.jsonl",), "target": " {continuation}"}
_UNSCRAMBLE = "Please unscramble the letters into a word, and write that word:\n"
_EN, _DE, _ZH = (f"flores200/{language}.dev" for language in ("eng_Latn", "deu_Latn", "zho_Hans"))
TASKS: dict[str, Task] = {
    "lambada": Task(**_LAMBADA, context="{context}"),
    "lambada_filtered": Task(**_LAMBADA, context="{context}", barred=STOP_WORDS),
    "lambada_cloze": Task(**_LAMBADA, context="{context} ____. ->", intro="Fill in blank:\n\n"),
    "winogrande": _partial("winogrande"),
    "wsc": _partial("winograd_wsc"),
    "piqa": _choice("piqa", "per_token", context="{query}Answer:", target=" {choice}"),
    "arc_easy": _choice("arc_easy", "unconditional", context="{query}Answer:", target=" {choice}"),
    "arc_challenge": _choice("arc_challenge", "unconditional", context="{query}Answer:", target=" {choice}"),
    "boolq": _choice("boolq", "sum", context="{query}Answer:", target=" {choice}"),
    "openbookqa": Task(
        kind="choice",
        files=("openbookqa/dev.tsv",),
        read=openbookqa,
        context="{question}",
        target=" {choice}",
        choices="choices",
        rule="unconditional",
        demonstrations=("openbookqa/train.tsv",),
    ),
    "triviaqa": Task(
        kind="generate",
        files=("gpt_eval/triviaqa.jsonl",),
        context="{context}",
        target=" {answer}",
        references="aliases",
        metric=exact_match(triviaqa_normalized),
    ),
    "nq": Task(
        kind="generate",
        files=("nq_open/NQ-open.dev.jsonl",),
        context="Q: {question}?\n\nA:",
        target=" {answer[0]}",
        references="answer",
        metric=exact_match(nq_normalized),
    ),
    "multi30k_en_de": _multi30k("en", "de"),
    "multi30k_de_en": _multi30k("de", "en"),
    "multi30k_en_fr": _multi30k("en", "fr"),
    "flores_en_de": _translate("German", (_EN, _DE)),
    "flores_de_en": _translate("English", (_DE, _EN)),
    "flores_en_zh": _translate("Chinese", (_EN, _ZH), tokenize="zh"),
    "flores_zh_en": _translate("English", (_ZH, _EN)),
    "cnn_dailymail": Task(
        kind="generate",
        files=("cnn_dailymail/cnn_dailymail_3_0_0_news_summary.jsonl",),
        read=news,
        context="{article}",
        cue="\nTL;DR:",
        target=" {summary}",
        metric=rouge,
        max_new_tokens=100,
        top_k=2,
        finish=three_sentences,
    ),
    "add_2_digits": _completion("two_digit_addition.jsonl", "\n\n"),
    "subtract_2_digits": _completion("two_digit_subtraction.jsonl", "\n\n"),
    "add_3_digits": _completion("three_digit_addition.jsonl", "\n\n"),
    "three_operations": _completion("single_digit_three_ops.jsonl", "\n\n"),
    "cycle_letters": _completion("cycle_letters_in_word.jsonl.gz", "\n", _UNSCRAMBLE),
    "reversed_words": _completion("reversed_words.jsonl.gz", "\n", _UNSCRAMBLE),
    "blimp": Task(
        kind="choice",
        files=("blimp/*.jsonl.gz",),
        read=minimal_pairs,
        context="",
        target="{choice}",
        choices="sentences",
        gold="good",
    ),
    "wikitext2": Task(kind="perplexity", files=("wikitext-2/wiki.valid.raw",), read=wiki_articles, context="{text}"),
}
