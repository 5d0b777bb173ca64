"""What a tokenizer is, and its two general kinds: a tokenizer.json, and a SentencePiece .model.

Special tokens are known by name whatever the kind: [PAD] or <pad>, [MASK] or <mask>, and so on. As in Hugging Face's
tokenizers, a special token that is written out in a text is read as that token (`The [MASK] barked.`); where a text is
somebody's words, `encode_as_text` reads it as text.
"""

import copy
import functools
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece
import tokenizers as hf
from etils import epath

from lmjax.data.chat_template import ChatTemplate, save_template
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


class Tokenizer(ABC):
    """A vocabulary and its rules. `data` is the file that is saved, byte for byte, under `filename`.

    Ids of special tokens are None where the vocabulary has no such token; `special_ids` holds them all, in order.
    `chat_template` is that of a model tuned to answer.
    """

    filename: str
    word_level = False  # its tokens are whole words, which a store spells out
    chat_template: ChatTemplate | None = None

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

    def encode_as_text(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_batch`, but a special token that is written out in a text is text.

        Raises:
          UserError: a kind that reads it as the token all the same.
        """
        rows, special = self._encode_as_text(texts), {*self.special_ids} - {self.unk_id}
        for text, ids in zip(texts, rows, strict=True):
            if not special.isdisjoint(ids):
                raise UserError(f"this tokenizer reads a special token in the text {text[:60]!r}; take it out")
        return rows

    def _encode_as_text(self, texts: Sequence[str]) -> list[list[int]]:
        return self.encode_batch(texts)

    def with_chat_template(self, template: ChatTemplate) -> "Tokenizer":
        """The same tokenizer with that template."""
        changed = copy.copy(self)
        changed.chat_template = template
        return changed

    def save(self, directory: str | os.PathLike) -> None:
        """Writes what `load_tokenizer` reads; Hugging Face's libraries read it too."""
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            part = directory / f"{name}.part"
            part.write_bytes(data)
            part.replace(directory / name)
        if self.chat_template is not None:
            save_template(self.chat_template, directory)

    @property
    def files(self) -> dict[str, bytes]:
        """What `save` writes: names and contents."""
        return {self.filename: self.data}

    @functools.cached_property
    def word_begins(self) -> np.ndarray:
        """bool [vocab_size]: does a word begin with this token? By the marks "##", "Ġ" (other whitespace too), "▁".

        GPT-1's vocabulary marks the ends of words instead, see `word_ends`, and no token of it is said to begin one.
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

    @functools.cached_property
    def word_ends(self) -> np.ndarray:
        """bool [vocab_size]: does a word end with this token, by the mark "</w>"?"""
        return np.array([self.token(i).endswith("</w>") for i in range(self.vocab_size)], bool)


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer.json: normalizer, pre-tokenizer, model and decoder of the `tokenizers` library."""

    filename = "tokenizer.json"

    def __init__(self, data: bytes):
        self._tokenizer = _without_limits(data)
        vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        added = self._tokenizer.get_added_tokens_decoder()
        super().__init__(data, vocab_size, (i for i, token in added.items() if token.special))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _encode_as_text(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self._of_text.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        return [(e.ids, e.offsets) for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    @functools.cached_property
    def _of_text(self) -> hf.Tokenizer:
        tokenizer = _without_limits(self.data)
        tokenizer.encode_special_tokens = True
        return tokenizer

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids])

    def token(self, id: int) -> str:
        return self._tokenizer.id_to_token(int(id)) or ""

    def id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)


def _without_limits(data: bytes) -> hf.Tokenizer:
    tokenizer = hf.Tokenizer.from_buffer(data)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


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
