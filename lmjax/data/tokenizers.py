"""Tokenizers: WordPiece, BPE over bytes or words, and SentencePiece, by the `tokenizers` and `sentencepiece` libraries.

Trained on a corpus, always to the same vocabulary, or read from the files in which published models carry theirs.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import tokenizers as hf
from etils import epath

from lmjax.data import tokenizer_training as training
from lmjax.data.chat_template import read_template
from lmjax.data.tokenizer_kinds import HuggingFaceTokenizer, SentencePieceTokenizer, Tokenizer
from lmjax.errors import UserError

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
    """A vocabulary from a file or a directory, with the chat template beside it; see `TokenizerConfig`. A
    tokenizer_config.json beside a vocab.txt overrules `lowercase`, and a saved spacy_bpe.json `cleaning`.

    Raises:
      UserError: no vocabulary there, or one that does not parse.
    """
    if not os.fspath(path):
        raise UserError(f"tokenizer of kind 'file' without a path; give {KNOWN}")
    file = _vocabulary_file(epath.Path(path).expanduser())
    tokenizer, template = _read(file, lowercase, fill_to, cleaning), read_template(file.parent)
    return tokenizer.with_chat_template(template) if template else tokenizer


def _read(file: epath.Path, lowercase: bool, fill_to: int, cleaning: Cleaning) -> Tokenizer:
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
