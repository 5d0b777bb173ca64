"""Tokenizers: WordPiece, BPE over bytes or words, and SentencePiece, by the `tokenizers` and `sentencepiece` libraries.

Trained on a corpus, always to the same vocabulary, or read from the files in which published models carry theirs.
Special tokens are known by name whatever the kind: [PAD] or <pad>, [MASK] or <mask>, and so on. As in Hugging Face's
tokenizers, a special token that is written out in a text is read as that token (`The [MASK] barked.`).
"""

import functools
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import sentencepiece
import tokenizers as hf
from etils import epath

from lmjax.data import tokenizer_training as training
from lmjax.errors import UserError

# Said outright, or the library warns at each fork; before its first use.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

ROLES = {  # the names of a special token, by preference
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>", "<UNK>"),
    "cls": ("[CLS]", "<cls>", "<s>", "<S>"),
    "sep": ("[SEP]", "<sep>", "</s>", "</S>"),
    "mask": ("[MASK]", "<mask>"),
    "eos": ("<|endoftext|>", "</s>"),
}
MERGES = {  # the merges of a BPE: its tokens
    "vocab.bpe": "encoder.json",
    "merges.txt": "vocab.json",
    "vocab_40000.bpe": "encoder_bpe_40000.json",
}
SPACY_BPE = "spacy_bpe.json"
Cleaning = Literal["basic", "spacy"]
KNOWN = "vocab.txt, tokenizer.json, words.txt, a .model, or a directory with one or with encoder.json and vocab.bpe"


@dataclass(frozen=True)
class TokenizerConfig:
    """A vocabulary to train on the corpus, or one to read from `path` (kind "file"). "bpe" is GPT-1's, of words.

    `path`: BERT's vocab.txt, tokenizer.json, a SentencePiece .model, ELMo's list of words as words.txt, or a directory
    that holds one of them, or GPT-2's encoder.json and vocab.bpe (with fairseq's dict.txt beside them, RoBERTa's order
    of ids), or GPT-1's encoder_bpe_40000.json and vocab_40000.bpe (either also under the names vocab.json and
    merges.txt). "roberta_bpe" is "byte_bpe" in RoBERTa's order. `lowercase` is of WordPiece alone. `fill_to`: a
    vocab.txt gets entries that no text has, up to so many (ERNIE's model has 18,000 rows for 17,964). `cleaning` is of
    GPT-1's BPE alone: transformers', or the original's by ftfy and spaCy (`spacy_bpe`; `pip install lmjax[gpt1]`).
    """

    kind: Literal["wordpiece", "byte_bpe", "roberta_bpe", "bpe", "sentencepiece", "words", "file"]
    vocab_size: int = 8192
    path: str = ""
    lowercase: bool = True
    fill_to: int = 0
    cleaning: Cleaning = "basic"


class Tokenizer(ABC):
    """A vocabulary and its rules. `data` is the file that is saved, byte for byte, under `filename`.

    Ids of special tokens are None where the vocabulary has no such token; `special_ids` holds them all, in order.
    """

    filename: str
    word_level = False  # its tokens are whole words, which a store spells out

    def __init__(self, data: bytes, vocab_size: int, special_ids: Iterable[int]):
        self.data = data
        self.vocab_size = vocab_size  # one more than the largest id
        self.fingerprint = hashlib.sha256(data).hexdigest()
        special = set(special_ids)
        roles = [self._role(names, special) for names in ROLES.values()]
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id, self.eos_id = roles
        self.special_ids = tuple(sorted({*special, *(i for i in roles if i is not None)}))

    def _role(self, names: Sequence[str], special: set[int]) -> int | None:
        """The first of the names that is a special token, else the first that is a token at all: RoBERTa's vocabulary
        holds GPT-2's <|endoftext|> as a token like any other."""
        found = [i for name in names if (i := self.id(name)) is not None]
        return next((i for i in found if i in special), found[0] if found else None)

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens around them; on all cores."""

    def encode_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids of each text, and which characters (begin, end) each token stands for. Raises UserError for kinds that
        cannot say."""
        raise UserError("this kind of tokenizer does not tell where its tokens stand; choose a WordPiece tokenizer")

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""

    @abstractmethod
    def token(self, id: int) -> str:
        """The token as the vocabulary writes it: `##ing`, `Ġthe`, `▁the`."""

    @abstractmethod
    def id(self, token: str) -> int | None:
        """The token's id, or None where the vocabulary lacks it."""

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """The same of translations, where these have a vocabulary of their own."""
        return self.encode_batch(texts)

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def save(self, directory: str | os.PathLike) -> None:
        """Writes what `load_tokenizer` reads; Hugging Face's libraries read it too."""
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            part = directory / f"{name}.part"
            part.write_bytes(data)
            part.replace(directory / name)

    @property
    def files(self) -> dict[str, bytes]:
        """What `save` writes: names and contents."""
        return {self.filename: self.data}

    @functools.cached_property
    def word_begins(self) -> np.ndarray:
        """bool [vocab_size]: does a word begin with this token? By the marks "##", "Ġ" (other whitespace too), "▁".

        GPT-1's vocabulary marks the ends of words instead, and no token of it is said to begin one.
        """
        tokens = [self.token(i) for i in range(self.vocab_size)]
        if any(t.startswith("##") for t in tokens):
            begins = [not t.startswith("##") for t in tokens]
        else:
            marks = ("▁",) if any(t.startswith("▁") for t in tokens) else ("Ġ", "Ċ", "č", "ĉ")
            begins = [t.startswith(marks) for t in tokens]
        found = np.array(begins, bool)
        found[list(self.special_ids)] = True
        return found


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer.json: normalizer, pre-tokenizer, model and decoder of the `tokenizers` library."""

    filename = "tokenizer.json"

    def __init__(self, data: bytes):
        self._tokenizer = hf.Tokenizer.from_buffer(data)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        added = self._tokenizer.get_added_tokens_decoder()
        super().__init__(data, vocab_size, (i for i, token in added.items() if token.special))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        return [(e.ids, e.offsets) for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids])

    def token(self, id: int) -> str:
        return self._tokenizer.id_to_token(int(id)) or ""

    def id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece .model."""

    filename = "tokenizer.model"

    def __init__(self, data: bytes):
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        pieces = range(self._processor.vocab_size())
        special_ids = (i for i in pieces if self._processor.is_control(i) or self._processor.is_unknown(i))
        super().__init__(data, len(pieces), special_ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts), num_threads=os.cpu_count() or 1)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([int(i) for i in ids if int(i) not in self.special_ids])

    def token(self, id: int) -> str:
        return self._processor.id_to_piece(int(id))

    def id(self, token: str) -> int | None:
        found = self._processor.piece_to_id(token)
        return found if self._processor.id_to_piece(found) == token else None


def make_tokenizer(cfg: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Reads the vocabulary at `cfg.path`, or trains one on `texts`. Raises UserError as the two below do."""
    if cfg.kind != "file":
        return train_tokenizer(cfg, texts)
    return read_tokenizer(cfg.path, cfg.lowercase, cfg.fill_to, cfg.cleaning)


def load_tokenizer(directory: str | os.PathLike) -> Tokenizer:
    """What `Tokenizer.save` wrote, or any directory that `read_tokenizer` knows."""
    return read_tokenizer(directory)


def read_tokenizer(
    path: str | os.PathLike, lowercase: bool = True, fill_to: int = 0, cleaning: Cleaning = "basic"
) -> Tokenizer:
    """A vocabulary from a file or a directory; see `TokenizerConfig`. A tokenizer_config.json beside a vocab.txt
    overrules `lowercase`, and a saved spacy_bpe.json `cleaning`.

    Raises:
      UserError: no vocabulary there, or one that does not parse.
    """
    if not os.fspath(path):
        raise UserError(f"tokenizer of kind 'file' without a path; give {KNOWN}")
    file = _vocabulary_file(epath.Path(path).expanduser())
    try:
        if file.suffix == ".model":
            return SentencePieceTokenizer(file.read_bytes())
        if file.suffix == ".spm":
            return _marian().read_marian(file.parent)
        if file.name == "words.txt":
            return _words().WordTokenizer(file.read_bytes())
        if file.name == SPACY_BPE:
            return _spacy_bpe().SpacyBpe(file.read_bytes())
        data = _tokenizer_json(file, lowercase, fill_to)
        if cleaning == "spacy":
            return _spacy_bpe().SpacyBpe(training.without_cleaning(data))
        return HuggingFaceTokenizer(data)
    except UserError:
        raise
    except Exception as error:  # the Rust library raises bare Exception
        raise UserError(f"cannot read a vocabulary from {file}: {error}") from None


def _tokenizer_json(file: epath.Path, lowercase: bool, fill_to: int) -> bytes:
    if file.suffix == ".json":
        return file.read_bytes()
    lines = file.read_bytes().decode("utf-8").replace("\r\n", "\n").rstrip("\n").split("\n")
    if file.name in MERGES:
        vocab = json.loads((file.parent / MERGES[file.name]).read_bytes())
        merges = [(a, b) for a, b in (line.split(" ") for line in lines if not line.startswith("#version"))]
        if any(token.endswith(training.WORD_END) for token in vocab):
            return training.to_bytes(training.word_bpe_pipeline(vocab, merges, basic=True))
        if (order := _fairseq_order(file.parent / "dict.txt", vocab)) is not None:
            return training.to_bytes(training.roberta_pipeline(order, merges))
        tokenizer = training.byte_level_pipeline(hf.models.BPE(vocab, merges))
        tokenizer.add_special_tokens([training.END_OF_TEXT])
        return training.to_bytes(tokenizer)
    tokens = [line.split("\t")[0] for line in lines]  # ERNIE's has the id behind
    tokens += [f"[unused{i}]" for i in range(len(tokens), fill_to)]
    vocab = {token: i for i, token in enumerate(tokens)}
    missing = [token for token in training.BERT_SPECIALS if token not in vocab]
    if missing:
        raise UserError(f"{file} lacks {', '.join(missing)}; it is no vocabulary of BERT's")
    config = file.parent / "tokenizer_config.json"
    settings = json.loads(config.read_bytes()) if config.exists() else {}
    return training.to_bytes(training.wordpiece_pipeline(vocab, settings.get("do_lower_case", lowercase)))


def _fairseq_order(file: epath.Path, vocab: dict[str, int]) -> list[str] | None:
    """The tokens between RoBERTa's special ones: as fairseq's dict.txt lists GPT-2's ids, or as the vocabulary has them
    that Hugging Face made of it; None for a vocabulary that is not RoBERTa's."""
    by_id = {i: token for token, i in vocab.items()}
    if file.exists():
        entries = [line.split()[0] for line in file.read_text().splitlines()]
        return [by_id[int(entry)] if entry.isdigit() else entry for entry in entries]  # the rest are fillers
    return [by_id[i] for i in range(len(training.ROBERTA_SPECIALS), len(vocab) - 1)] if training.MASK in vocab else None


def _vocabulary_file(path: epath.Path) -> epath.Path:
    if path.is_file():
        if path.suffix in (".txt", ".json", ".model", ".spm", ".bpe"):
            twin = {tokens: merges for merges, tokens in MERGES.items()}.get(path.name)
            return path.parent / twin if twin else path
        raise UserError(f"{path} is no vocabulary; give {KNOWN}")
    if not path.is_dir():
        raise UserError(f"no vocabulary at {path}; give {KNOWN}")
    models = sorted([*path.glob("*.model"), *path.glob("*.spm")])
    names = (SPACY_BPE, "vocab.txt", "words.txt", *MERGES)
    files = [path / "tokenizer.json", *models, *(path / name for name in names)]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise UserError(f"{path} holds no vocabulary; give {KNOWN}")
    return found


def train_tokenizer(cfg: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Trains on `texts`; the same texts give the same vocabulary, smaller than asked for where they hold no more.

    Raises:
      UserError: no text, or a vocabulary too small for the corpus's alphabet.
    """
    texts = iter(texts)
    first = next((text for text in texts if text.strip()), None)
    if first is None:
        raise UserError("no text to train a tokenizer on; the corpus is empty")
    texts = chain([first], texts)
    if cfg.cleaning != "basic" and cfg.kind != "bpe":
        raise UserError(f"tokenizer: cleaning '{cfg.cleaning}' is of kind 'bpe', GPT-1's; kind '{cfg.kind}' has none")
    match cfg.kind:
        case "wordpiece":
            return HuggingFaceTokenizer(training.wordpiece(texts, cfg.vocab_size, cfg.lowercase))
        case "byte_bpe":
            return HuggingFaceTokenizer(training.byte_bpe(texts, cfg.vocab_size))
        case "bpe" if cfg.cleaning == "spacy":
            words = map(_spacy_bpe().cut, texts)
            return _spacy_bpe().SpacyBpe(training.word_bpe(words, cfg.vocab_size, basic=False))
        case "bpe":
            return HuggingFaceTokenizer(training.word_bpe(texts, cfg.vocab_size))
        case "roberta_bpe":
            return HuggingFaceTokenizer(training.roberta_bpe(texts, cfg.vocab_size))
        case "sentencepiece":
            return SentencePieceTokenizer(training.unigram(texts, cfg.vocab_size))
        case "words":
            return _words().WordTokenizer(_words().count_words(texts, cfg.vocab_size))
        case _:
            known = "wordpiece, byte_bpe, roberta_bpe, bpe, sentencepiece, words or file"
            raise UserError(f"no tokenizer of kind '{cfg.kind}'; choose {known}")


def _words() -> Any:
    from lmjax.data import words  # it builds on this module

    return words


def _marian() -> Any:
    from lmjax.data import marian

    return marian


def _spacy_bpe() -> Any:
    from lmjax.data import spacy_bpe

    return spacy_bpe
