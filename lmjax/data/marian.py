"""The tokenizer of Marian's published translation models (opus-mt): two SentencePiece models, one table of ids.

source.spm and target.spm say how a text of either language is cut, and vocab.json which id a piece of either has.
"""

import json
import os
from collections.abc import Sequence

import sentencepiece
from etils import epath

from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError

SOURCE, TARGET, IDS = FILES = ("source.spm", "target.spm", "vocab.json")
SPECIAL = ("<unk>", "</s>", "<pad>")


class MarianTokenizer(Tokenizer):
    """Texts are encoded as sources, translations by `encode_targets`; ids are decoded as of the target's language.

    `>>fra<<` at the beginning of a text, by which a model of several languages is told which one to write, is one
    token. Special tokens that are written out in a text are text.
    """

    def __init__(self, files: dict[str, bytes]):
        self._files = files
        self._source, self._target = (
            sentencepiece.SentencePieceProcessor(model_proto=files[name]) for name in (SOURCE, TARGET)
        )
        self._ids: dict[str, int] = json.loads(files[IDS])
        self._tokens = {i: token for token, i in self._ids.items()}
        if missing := [token for token in SPECIAL if token not in self._ids]:
            raise UserError(f"{IDS} lacks {', '.join(missing)}; it is no vocabulary of Marian's")
        super().__init__(b"".join(files.values()), max(self._tokens) + 1, (self._ids[token] for token in SPECIAL))

    @property
    def files(self) -> dict[str, bytes]:
        return self._files

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encode(self._source, texts)

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encode(self._target, texts)

    def _encode(self, processor: sentencepiece.SentencePieceProcessor, texts: Sequence[str]) -> list[list[int]]:
        split, unknown = [_language(text) for text in texts], self._ids["<unk>"]
        cut = processor.encode([rest for _, rest in split], out_type=str, num_threads=os.cpu_count() or 1)
        tokens = [[*code, *pieces] for (code, _), pieces in zip(split, cut, strict=True)]
        return [[self._ids.get(token, unknown) for token in row] for row in tokens]

    def decode(self, ids: Sequence[int]) -> str:
        return self._target.decode_pieces([self.token(i) for i in ids if int(i) not in self.special_ids])

    def token(self, id: int) -> str:
        return self._tokens.get(int(id), "<unk>")

    def id(self, token: str) -> int | None:
        return self._ids.get(token)


def read_marian(directory: epath.Path) -> MarianTokenizer:
    """Raises UserError where one of its three files is missing."""
    if missing := [name for name in FILES if not (directory / name).exists()]:
        raise UserError(f"{directory} lacks {' and '.join(missing)}; a Marian's tokenizer is {', '.join(FILES)}")
    return MarianTokenizer({name: (directory / name).read_bytes() for name in FILES})


def _language(text: str) -> tuple[list[str], str]:
    """The language that a text asks for, as a token, and the rest of it."""
    end = text.find("<<") + 2 if text.startswith(">>") and "<<" in text else 0
    return [text[:end]] * bool(end), text[end:]
