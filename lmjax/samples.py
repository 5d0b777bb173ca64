"""Held-out text as a trained model sees it: masked words filled in, sentences continued or translated, questions
answered. For the screen and the report."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from lmjax.data.chat_template import Turn, prompt_tokens
from lmjax.data.examples import open_examples
from lmjax.data.store import Store
from lmjax.generate import Sampling
from lmjax.interop import LanguageModel, load
from lmjax.train.files import write_atomically

if TYPE_CHECKING:
    from lmjax.run import RunConfig

COUNT = 5
SHORTEST, LONGEST = 8, 40  # tokens of a sentence to show
NEW = 32  # tokens of a continuation


def write_samples(cfg: "RunConfig") -> list[dict[str, Any]]:
    """Writes RUN/samples.json, `[{"title", "rows"}]`, each row a list of cells, and returns it."""
    return _write(cfg, samples(load(cfg.directory), Store.open(cfg.data[0].data.store)))


def write_answers(cfg: "RunConfig") -> list[dict[str, Any]]:
    """The same of a run that was tuned to answer: what its best state says to held-out questions."""
    best, store = epath.Path(cfg.directory) / "best", Store.open(cfg.data[0].data.store)
    found = [[Turn(*turn) for turn in turns] for turns in open_examples(store)["heldout"].notes]
    return _write(cfg, answers(load(best if best.exists() else cfg.directory), found))


def _write(cfg: "RunConfig", found: dict[str, Any]) -> list[dict[str, Any]]:
    write_atomically(epath.Path(cfg.directory) / "samples.json", json.dumps([found], indent=1))
    return [found]


def samples(lm: LanguageModel, store: Store) -> dict[str, Any]:
    """What the model says of held-out text, in the way of its family: {"title", "rows"}."""
    if lm.translates:
        return translations(lm, store)
    show = guesses_of_both_directions if lm.reads_words else continuations if lm.causal else filled_masks
    return show(lm, [ids for ids in heldout_sentences(store, COUNT) if len(ids) + 2 <= lm.longest])


def heldout_sentences(store: Store, count: int) -> list[list[int]]:
    """`count` held-out sentences of moderate length, evenly spread; token ids."""
    split = store.split("heldout")
    starts = np.asarray(split.sentence_starts[:])
    lengths = np.diff(starts)
    fitting = np.flatnonzero((lengths >= SHORTEST) & (lengths <= LONGEST))
    chosen = fitting[np.linspace(0, len(fitting) - 1, min(count, len(fitting))).astype(int)] if len(fitting) else []
    return [np.asarray(split.tokens[starts[i] : starts[i] + lengths[i]]).tolist() for i in chosen]


def filled_masks(lm: LanguageModel, sentences: list[list[int]]) -> dict[str, Any]:
    """The middle word of each sentence hidden: what stood there, and the model's three best guesses."""
    tokenizer, rows = lm.tokenizer, []
    for ids in sentences:
        words = np.flatnonzero(tokenizer.word_begins[ids])
        hidden = int(words[np.abs(words - len(ids) // 2).argmin()]) if len(words) else len(ids) // 2
        masked = [*ids[:hidden], tokenizer.mask_id, *ids[hidden + 1 :]]
        tokens = np.array([[tokenizer.cls_id, *masked, tokenizer.sep_id]], np.int32)
        logits = lm(tokens=tokens, mlm_positions=np.array([[hidden + 1]], np.int32))["logits"][0, 0]
        shares = np.exp(logits - np.logaddexp.reduce(logits))
        guesses = ", ".join(f"{tokenizer.token(int(i))} {shares[i]:.0%}" for i in np.argsort(-shares)[:3])
        # Decoded with the hidden word and cut, so that pieces after it join as they would have joined it.
        rest = tokenizer.decode(ids[hidden:])[len(tokenizer.decode(ids[hidden : hidden + 1])) :]
        text = f"{tokenizer.decode(ids[:hidden])} [MASK]{rest}"
        rows.append([text, tokenizer.token(int(ids[hidden])), guesses])
    return {"title": "Masked words filled in (held-out text; the word; the model's guesses)", "rows": rows}


def guesses_of_both_directions(lm: LanguageModel, sentences: list[list[int]]) -> dict[str, Any]:
    """The middle word of each sentence, and what either direction takes it for."""
    tokenizer, rows = lm.tokenizer, []
    for ids in sentences:
        words, middle = [tokenizer.token(i) for i in ids if i != tokenizer.sep_id], (len(ids) - 1) // 2
        outputs = lm(**lm.encode(" ".join(words)))
        guesses = []
        for name, at in (("forward_logits", middle), ("backward_logits", middle + 2)):  # <S> comes first
            logits = outputs[name][0, at]
            shares = np.exp(logits - np.logaddexp.reduce(logits))
            guesses.append(", ".join(f"{tokenizer.token(int(i))} {shares[i]:.0%}" for i in np.argsort(-shares)[:3]))
        text = " ".join([*words[:middle], "____", *words[middle + 1 :]])
        rows.append([text, words[middle], *guesses])
    return {
        "title": "Words guessed (held-out text; the word; from what precedes it; from what follows it)",
        "rows": rows,
    }


def continuations(lm: LanguageModel, sentences: list[list[int]]) -> dict[str, Any]:
    """The first half of each sentence, and what the model writes after it."""
    prompts = [lm.tokenizer.decode(ids[: len(ids) // 2]) for ids in sentences]
    room = lm.longest - max(map(len, lm.tokenizer.encode_batch(prompts)), default=0)
    sampling = Sampling(max_new_tokens=min(NEW, room), temperature=0.8)
    found = lm.generate(prompts, sampling) if prompts else []
    return {
        "title": "Held-out sentences continued (the beginning; the model's continuation)",
        "rows": [list(row) for row in zip(prompts, found, strict=True)],
    }


def translations(lm: LanguageModel, store: Store) -> dict[str, Any]:
    """Held-out sources, evenly spread: what the model makes of each, and its reference."""
    split = store.split("heldout")
    starts, documents = np.asarray(split.sentence_starts[:]), np.asarray(split.document_starts[:-1])
    chosen = documents[np.linspace(0, len(documents) - 1, min(COUNT, len(documents))).astype(int)]
    sides = [
        [lm.tokenizer.decode(split.tokens[starts[i + k] : starts[i + k + 1]]).strip() for i in chosen] for k in (0, 1)
    ]
    return {
        "title": "Held-out sentences translated (the source; the model's translation; the reference)",
        "rows": [list(row) for row in zip(sides[0], lm.translate(sides[0], batch_size=COUNT), sides[1], strict=True)],
    }


def answers(lm: LanguageModel, conversations: list[list[Turn]]) -> dict[str, Any]:
    """Conversations whose prompts are short enough, evenly spread: what the user says last, the model's answer, and the
    reference."""
    sampling = Sampling(max_new_tokens=lm.longest // 4, temperature=0.7)
    prompts = [len(prompt_tokens(lm.chat_template, lm.tokenizer, turns[:-1])) for turns in conversations]
    fitting = np.flatnonzero(np.array(prompts) + sampling.max_new_tokens <= lm.longest)
    chosen = fitting[np.linspace(0, len(fitting) - 1, min(COUNT, len(fitting))).astype(int)] if len(fitting) else []
    shown = [conversations[i] for i in chosen]
    found = lm.answer([turns[:-1] for turns in shown], sampling) if shown else []
    asked = ["\n".join(text for text in turns[-2][1:] if text) for turns in shown]
    references = [turns[-1].text for turns in shown]
    return {
        "title": "Held-out questions answered (what the user says; the model's answer; the reference)",
        "rows": [list(row) for row in zip(asked, found, references, strict=True)],
    }
