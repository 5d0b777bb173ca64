"""From text to a store and its instance tables, once; every later call finds them and opens them.

source -> documents, spooled by side of the hold-out -> tokenizer (trained on the training side) -> arrays -> tables.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from etils import epath
from tqdm import tqdm

from lmjax.config import differences, from_json, to_json
from lmjax.data import docs_source
from lmjax.data.instances import InstanceConfig, build_table
from lmjax.data.sentences import SentenceRule, documents
from lmjax.data.sources import Docs, SourceConfig, fingerprint
from lmjax.data.store import SCHEMA_VERSION, SPLITS, WORD_BEGINS, WORD_INSIDE, ArrayWriter, Store, built_aside
from lmjax.data.tokenizers import Tokenizer, TokenizerConfig, make_tokenizer, read_tokenizer
from lmjax.data.words import END_SENTENCE, spell
from lmjax.errors import UserError

BATCH = 256  # documents tokenized at once


@dataclass(frozen=True)
class DataConfig:
    """A corpus, how it is cut and tokenized, and the directory of its store. `heldout` is a share of the groups of
    documents; which of them, their hash decides. Where a `heldout_source` is given, all of that is held out instead."""

    store: str = dataclasses.field(metadata={"operational": True})  # a store may be moved
    source: SourceConfig
    tokenizer: TokenizerConfig
    sentences: SentenceRule = "line"
    heldout: float = 0.05
    heldout_source: SourceConfig | None = None


@dataclass(frozen=True)
class WeightedData:
    """One of a run's corpora; `weight` is its share of rows, relative to the others'."""

    data: DataConfig
    weight: float = 1.0


def prepare(cfg: DataConfig, instances: Sequence[InstanceConfig], seed: int) -> Store:
    """Makes what is missing of the store and of both sides' instance tables, and opens the store.

    Raises:
      UserError: an empty corpus, no document on one side of the hold-out, a side shorter than one sequence, or a store
        at that path that was made from another config or tokenizer.
    """
    directory = epath.Path(cfg.store)
    if not (directory / "meta.json").exists():
        _build_store(cfg, directory)
    store = Store.open(directory)
    _check_same(store, cfg)
    for instance in instances:
        for split in SPLITS:
            build_table(instance, store, split, seed)
    return store


def side(group: str, heldout: float) -> str:
    """The split to which a group of documents belongs, by the hash of its name."""
    number = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big")
    return "heldout" if number < heldout * 2**64 else "train"


def _build_store(cfg: DataConfig, directory: epath.Path) -> None:
    if directory.exists() and any(directory.iterdir()):
        raise UserError(f"{directory} exists and is not a data store; choose another path, or delete it")
    with tempfile.TemporaryDirectory() as scratch, built_aside(directory) as building:
        count = _spool(cfg, Path(scratch))
        tokenizer = make_tokenizer(cfg.tokenizer, (s for d in _spooled(Path(scratch), "train") for s in d))
        tokenizer.save(building / "tokenizer")
        with tqdm(total=count, desc="tokens", unit=" documents", disable=None, delay=1) as bar:
            counts = {
                name: _write_split(building / name, _spooled(Path(scratch), name), tokenizer, bar) for name in SPLITS
            }
        meta = {
            "schema_version": SCHEMA_VERSION,
            "config": to_json(cfg),
            "source_fingerprint": " ".join(fingerprint(source) for source, _ in _sides(cfg)),
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "packages": docs_source.packages() if isinstance(cfg.source, Docs) else {},
            "counts": counts,
        }
        (building / "meta.json").write_text(json.dumps(meta, indent=1))


def _sides(cfg: DataConfig) -> list[tuple[SourceConfig, str]]:
    """What is read, each with the split that all of it belongs to, or "" where hashes decide."""
    if cfg.heldout_source is None:
        return [(cfg.source, "")]
    return [(cfg.source, "train"), (cfg.heldout_source, "heldout")]


def _spool(cfg: DataConfig, scratch: Path) -> int:
    """Writes each side's documents to a file, one JSON list of sentences a line, so that the source is read once;
    returns their number."""
    counts: dict[str, int] = dict.fromkeys(SPLITS, 0)
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((scratch / name).open("w", encoding="utf-8")) for name in SPLITS}
        for source, whole in _sides(cfg):
            for document in tqdm(documents(source, cfg.sentences), "text", unit=" documents", disable=None, delay=1):
                name = whole or side(document.group, cfg.heldout)
                files[name].write(json.dumps(document.sentences) + "\n")
                counts[name] += 1
    if not any(counts.values()):
        raise UserError(f"the corpus is empty: no text in {cfg.source}")
    for name, other in zip(SPLITS, reversed(SPLITS), strict=True):
        if not counts[name]:
            raise UserError(
                f"all {counts[other]} documents fall on the {other} side at heldout {cfg.heldout}; "
                "change heldout, or cut the text into more documents"
            )
    return sum(counts.values())


def _spooled(scratch: Path, name: str) -> Iterator[list[str]]:
    with (scratch / name).open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _write_split(directory: epath.Path, texts: Iterator[list[str]], tokenizer: Tokenizer, bar: tqdm) -> dict[str, int]:
    narrow = tokenizer.vocab_size <= 1 << 16
    dtypes = {"tokens": "u2" if narrow else "u4", "flags": "u1", "sentence_starts": "i8", "document_starts": "i8"}
    arrays = {name: ArrayWriter(directory / name, np.dtype(dtype)) for name, dtype in dtypes.items()}
    if tokenizer.word_level:
        unknown = {"unknown_at": "i8", "unknown_spelling": "u2"}
        arrays |= {name: ArrayWriter(directory / name, np.dtype(dtype)) for name, dtype in unknown.items()}
    flags = _flags(tokenizer)
    while group := list(itertools.islice(texts, BATCH)):
        encoded = iter(tokenizer.encode_batch([sentence for document in group for sentence in document]))
        for document in group:
            sentences = [ids for _ in document if (ids := next(encoded))]
            if sentences and tokenizer.word_level:
                _append_words(arrays, document, sentences, flags, tokenizer)
            elif sentences:
                _append_document(arrays, sentences, flags, tokenizer.eos_id)
        bar.update(len(group))
    arrays["document_starts"].append([arrays["sentence_starts"].size])
    arrays["sentence_starts"].append([arrays["tokens"].size])
    for array in arrays.values():
        array.close()
    return {
        "documents": arrays["document_starts"].size - 1,
        "sentences": arrays["sentence_starts"].size - 1,
        "tokens": arrays["tokens"].size,
    }


def _append_document(
    arrays: dict[str, ArrayWriter], sentences: list[list[int]], flags: np.ndarray, eos: int | None
) -> None:
    begins = arrays["tokens"].size + np.cumsum([0, *map(len, sentences)])
    arrays["document_starts"].append([arrays["sentence_starts"].size])
    arrays["sentence_starts"].append(begins[:-1])
    tokens = np.array([token for ids in sentences for token in ids] + ([] if eos is None else [eos]))
    word = flags[tokens]
    first = begins[:-1] - begins[0]
    word[first[word[first] == WORD_INSIDE]] = WORD_BEGINS  # byte-level vocabularies mark a word by the space before it
    arrays["tokens"].append(tokens)
    arrays["flags"].append(word)


def _append_words(
    arrays: dict[str, ArrayWriter], texts: list[str], ids: list[list[int]], flags: np.ndarray, tokenizer: Tokenizer
) -> None:
    """Each sentence closed by </S>, and the spelling of the words that the vocabulary lacks."""
    words = [word for text in texts if (found := text.split()) for word in (*found, END_SENTENCE)]
    closed = [[*sentence, tokenizer.sep_id or 0] for sentence in ids]
    unknown = [i for i, token in enumerate(itertools.chain(*closed)) if token == tokenizer.unk_id]
    arrays["unknown_at"].append(arrays["tokens"].size + np.array(unknown, np.int64))
    arrays["unknown_spelling"].append(spell([words[i] for i in unknown]).reshape(-1))
    _append_document(arrays, closed, flags, None)


def _flags(tokenizer: Tokenizer) -> np.ndarray:
    """uint8 [vocabulary]. An unknown word is a word like any other, as in BERT's code."""
    flags = np.where(tokenizer.word_begins, WORD_BEGINS, WORD_INSIDE).astype(np.uint8)
    flags[[i for i in tokenizer.special_ids if i != tokenizer.unk_id]] = 0
    return flags


def _check_same(store: Store, cfg: DataConfig) -> None:
    stored = from_json(DataConfig, store.meta["config"], f"{store.directory}/meta.json")
    changed = differences(stored, cfg)
    vocabulary = epath.Path(cfg.tokenizer.path)
    if not changed and cfg.tokenizer.kind == "file" and vocabulary.exists():
        given = read_tokenizer(vocabulary, cfg.tokenizer.lowercase).fingerprint
        changed = [] if given == store.tokenizer.fingerprint else [f"tokenizer (the vocabulary at {vocabulary})"]
    if changed:
        raise UserError(
            f"{store.directory} was made from another config: {', '.join(changed)}; "
            "choose another store path, or delete it"
        )
