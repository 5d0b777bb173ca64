"""From text to a store and its instance tables, once; every later call finds them and opens them.

source -> documents, spooled by side of the hold-out -> tokenizer (trained on the training side) -> arrays -> tables.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from lmjax.config import differences, from_json, to_json
from lmjax.data import chinese, docs_source
from lmjax.data.annotated import ENTITY_BEGIN, ENTITY_END
from lmjax.data.chinese import Boundaries
from lmjax.data.dialogue import RESPONSE_MARK, DialogueTurns
from lmjax.data.instances import InstanceConfig, SentencePairs, build_table
from lmjax.data.marian import MarianTokenizer
from lmjax.data.records import ReadyPairs
from lmjax.data.sentences import SentenceRule, documents
from lmjax.data.sources import Annotated, Dialogues, Docs, ErnieRecords, ParallelText, SourceConfig, Tfds, fingerprint
from lmjax.data.store import MARKED, SCHEMA_VERSION, SPLITS, WORD_BEGINS, WORD_INSIDE, ArrayWriter, Store, built_aside
from lmjax.data.tokenizers import Tokenizer, TokenizerConfig, make_tokenizer
from lmjax.data.words import END_SENTENCE, spell
from lmjax.errors import UserError

BATCH = 256  # documents tokenized at once
Encode = Callable[[list[Any]], Iterator[tuple[list[int], np.ndarray]]]  # sentences -> ids and flags of each
MARKS = str.maketrans("", "", ENTITY_BEGIN + ENTITY_END + RESPONSE_MARK)


@dataclass(frozen=True)
class DataConfig:
    """A corpus, how it is cut and tokenized, and the directory of its store. `heldout` is a share of the groups of
    documents; which of them, their hash decides. Where a `heldout_source` is given, all of that is held out instead.
    `boundaries` finds words, phrases and entities in Chinese text."""

    store: str = dataclasses.field(metadata={"operational": True})  # a store may be moved
    source: SourceConfig
    tokenizer: TokenizerConfig
    sentences: SentenceRule = "line"
    heldout: float = 0.05
    heldout_source: SourceConfig | None = None
    boundaries: Boundaries | None = None


@dataclass(frozen=True)
class WeightedData:
    """One of a run's corpora; `weight` is its share of rows, relative to the others'."""

    data: DataConfig
    weight: float = 1.0


def prepare(cfg: DataConfig, instances: Sequence[InstanceConfig], seed: int) -> Store:
    """Makes what is missing of the store and of both sides' instance tables, and opens the store.

    Raises:
      UserError: an empty corpus, no document on one side of the hold-out, a side shorter than one sequence, or a store
        at that path that was made from another config, tokenizer or files.
    """
    directory = epath.Path(cfg.store)
    if not (directory / "meta.json").exists():
        _build_store(cfg, directory)
    store = Store.open(directory)
    _check_same(store, cfg)
    for instance in instances:
        for split in SPLITS:
            build_table(rows_of(cfg.source, instance), store, split, seed)
    return store


def rows_of(source: SourceConfig, instance: InstanceConfig) -> InstanceConfig:
    """How rows are cut from a source where a task asks for `instance`: a source may say itself what makes up a pair.

    Raises:
      UserError: such a source, and a task that reads no pairs.
    """
    if not isinstance(source, Dialogues | ErnieRecords):
        return instance
    if not isinstance(instance, SentencePairs) or not instance.next_sentence:
        raise UserError(f"{type(source).__name__} gives labelled pairs; set task.next_sentence and sentence_pairs")
    if isinstance(source, Dialogues):
        return DialogueTurns(instance.length, instance.duplicates, instance.true_label)
    return ReadyPairs(instance.length, duplicates=1, true_label=instance.true_label)


def side(group: str, heldout: float) -> str:
    """The split to which a group of documents belongs, by the hash of its name."""
    number = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big")
    return "heldout" if number < heldout * 2**64 else "train"


def _build_store(cfg: DataConfig, directory: epath.Path) -> None:
    if directory.exists() and any(directory.iterdir()):
        raise UserError(f"{directory} exists and is not a data store; choose another path, or delete it")
    with tempfile.TemporaryDirectory() as scratch, built_aside(directory) as building:
        count = _spool(cfg, Path(scratch))
        tokenizer = make_tokenizer(cfg.tokenizer, _texts(cfg, Path(scratch)))
        tokenizer.save(building / "tokenizer")
        encode, pairs = _encoder(cfg, tokenizer), isinstance(cfg.source, ParallelText)
        with tqdm(total=count, desc="tokens", unit=" documents", disable=None, delay=1) as bar:
            counts = {
                name: _write_split(building / name, _spooled(Path(scratch), name), tokenizer, encode, pairs, bar)
                for name in SPLITS
            }
        meta = {
            "schema_version": SCHEMA_VERSION,
            "config": to_json(cfg),
            "source_fingerprint": " ".join(fingerprint(source) for source, _ in _sides(cfg)),
            "source_files": _listed(cfg),
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
    if isinstance(cfg.source, ParallelText) and cfg.sentences != "line":
        raise UserError(f"sentences {cfg.sentences}: a ParallelText is pairs of lines; leave sentences at line")
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


def _texts(cfg: DataConfig, scratch: Path) -> Iterator[str]:
    """What a tokenizer is trained on."""
    if isinstance(cfg.source, ErnieRecords):
        if cfg.tokenizer.kind != "file":
            raise UserError("records of ids have no text to train a tokenizer on; give their vocabulary, of kind file")
        return
    yield from (sentence.translate(MARKS) for document in _spooled(scratch, "train") for sentence in document)


def _spooled(scratch: Path, name: str) -> Iterator[list[Any]]:
    with (scratch / name).open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _write_split(
    directory: epath.Path,
    documents: Iterator[list[Any]],
    tokenizer: Tokenizer,
    encode: Encode,
    whole: bool,
    bar: tqdm,
) -> dict[str, int]:
    """`whole`: documents are left out of which a sentence has no token, as a pair of which one side has none."""
    narrow = tokenizer.vocab_size <= 1 << 16
    dtypes = {"tokens": "u2" if narrow else "u4", "flags": "u1", "sentence_starts": "i8", "document_starts": "i8"}
    arrays = {name: ArrayWriter(directory / name, np.dtype(dtype)) for name, dtype in dtypes.items()}
    if tokenizer.word_level:
        unknown = {"unknown_at": "i8", "unknown_spelling": "u2"}
        arrays |= {name: ArrayWriter(directory / name, np.dtype(dtype)) for name, dtype in unknown.items()}
    while group := list(itertools.islice(documents, BATCH)):
        encoded = encode([sentence for document in group for sentence in document])
        for document in group:
            sentences = [found for found in itertools.islice(encoded, len(document)) if found[0]]
            if whole and len(sentences) < len(document):
                continue
            if sentences and tokenizer.word_level:
                _append_words(arrays, document, sentences, tokenizer)
            elif sentences:
                _append_document(arrays, sentences, tokenizer.eos_id)
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
    arrays: dict[str, ArrayWriter], sentences: list[tuple[list[int], np.ndarray]], eos: int | None
) -> None:
    begins = arrays["tokens"].size + np.cumsum([0, *(len(ids) for ids, _ in sentences)])
    arrays["document_starts"].append([arrays["sentence_starts"].size])
    arrays["sentence_starts"].append(begins[:-1])
    end = [] if eos is None else [eos]
    arrays["tokens"].append(np.concatenate([*(ids for ids, _ in sentences), end]))
    arrays["flags"].append(np.concatenate([*(flags for _, flags in sentences), [0] * len(end)]))


def _encoder(cfg: DataConfig, tokenizer: Tokenizer) -> Encode:
    table = _flags(tokenizer)
    if isinstance(cfg.source, ErnieRecords):
        return lambda sentences: ((_checked(ids, tokenizer), np.array(flags)) for ids, flags in sentences)
    if isinstance(cfg.source, Annotated) and cfg.boundaries is None:
        raise UserError("a source of annotated entities needs boundaries, which put them to use")
    if isinstance(tokenizer, MarianTokenizer):
        raise UserError("a store has one vocabulary for both languages, and Marian's cuts each by its own; train one")
    segmenter = chinese.Segmenter(cfg.boundaries) if cfg.boundaries else None

    def found(sentences: list[str]) -> Iterator[tuple[list[int], np.ndarray]]:
        if segmenter:
            yield from chinese.encode(sentences, tokenizer, table, segmenter)
            return
        for ids in tokenizer.encode_batch(sentences):
            flags = table[ids]
            flags[:1][flags[:1] == WORD_INSIDE] = WORD_BEGINS  # byte-level vocabularies mark a word by the space before
            yield ids, flags

    def turns(sentences: list[str]) -> Iterator[tuple[list[int], np.ndarray]]:
        plain = [sentence.replace(RESPONSE_MARK, "") for sentence in sentences]
        for sentence, (ids, flags) in zip(sentences, found(plain), strict=True):
            yield ids, np.where(flags != 0, flags | MARKED * (RESPONSE_MARK in sentence), 0)

    return turns if isinstance(cfg.source, Dialogues) else found


def _checked(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    if ids and not 0 <= min(ids) <= max(ids) < tokenizer.vocab_size:
        raise UserError(f"a record has ids up to {max(ids)}; the vocabulary has {tokenizer.vocab_size} entries")
    return ids


def _append_words(
    arrays: dict[str, ArrayWriter],
    texts: list[str],
    sentences: list[tuple[list[int], np.ndarray]],
    tokenizer: Tokenizer,
) -> None:
    """Each sentence closed by </S>, and the spelling of the words that the vocabulary lacks."""
    words = [word for text in texts if (found := text.split()) for word in (*found, END_SENTENCE)]
    closed = [([*ids, tokenizer.sep_id or 0], np.append(flags, 0)) for ids, flags in sentences]
    unknown = [i for i, token in enumerate(token for ids, _ in closed for token in ids) if token == tokenizer.unk_id]
    arrays["unknown_at"].append(arrays["tokens"].size + np.array(unknown, np.int64))
    arrays["unknown_spelling"].append(spell([words[i] for i in unknown]).reshape(-1))
    _append_document(arrays, closed, None)


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
        given = make_tokenizer(cfg.tokenizer, ()).fingerprint
        changed = [] if given == store.tokenizer.fingerprint else [f"tokenizer (the vocabulary at {vocabulary})"]
    if changed:
        raise UserError(
            f"{store.directory} was made from another config: {', '.join(changed)}; "
            "choose another store path, or delete it"
        )
    with contextlib.suppress(UserError):  # where the files are gone, the store is enough
        if _listed(cfg) != store.meta["source_files"]:
            changed = ["source"]
    if changed:
        raise UserError(
            f"{store.directory} was made when the source had other files, or of other sizes; choose another store "
            "path, or delete it"
        )


def _listed(cfg: DataConfig) -> list[str]:
    """What tells the files of a corpus from others, without reading them; of no files, nothing."""
    sources = [source for source, _ in _sides(cfg) if not isinstance(source, Docs | Tfds)]
    return [fingerprint(source, contents=False) for source in sources]
