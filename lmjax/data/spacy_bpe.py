"""GPT-1's BPE behind its authors' own clean-up: ftfy mends a text, spaCy's rules for English cut it into words.

As in https://github.com/openai/finetune-transformer-lm, text_utils.py, so every run of one of `SET_APART` stands apart.
The backslash is none of them: the original names it in a string that Python reads as a second plus sign, and the
released weights were made so; transformers' later copy sets it apart. What spaCy's rules are depends on its version.
"""

import functools
import re
from collections.abc import Callable, Sequence

from lmjax.data.tokenizer_training import WORD_BREAK
from lmjax.data.tokenizers import SPACY_BPE, HuggingFaceTokenizer, Tokenizer
from lmjax.errors import UserError

REPLACED = str.maketrans({"—": "-", "–": "-", "―": "-", "…": "...", "´": "'"})
SET_APART = re.compile(r"([-~!\";?+,()/*\[\]{}|_])\1*")


class SpacyBpe(Tokenizer):
    """A BPE of words that are cut before; `data` is its tokenizer.json, which alone does not give these tokens.

    A special token that is written out in a text is text. Encoding needs ftfy and spaCy.
    """

    filename = SPACY_BPE

    def __init__(self, data: bytes):
        self._bpe = HuggingFaceTokenizer(data)
        super().__init__(data, self._bpe.vocab_size, self._bpe.special_ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._bpe.encode_batch([cut(text) for text in texts])

    def decode(self, ids: Sequence[int]) -> str:
        return self._bpe.decode(ids)

    def token(self, id: int) -> str:
        return self._bpe.token(id)

    def id(self, token: str) -> int | None:
        return self._bpe.id(token)


def cut(text: str) -> str:
    """The words of a text, lower-cased, with `WORD_BREAK` between them. Raises UserError without ftfy or spaCy."""
    mend, words = _libraries()
    return WORD_BREAK.join(words(standardize(mend(text))))


def standardize(text: str) -> str:
    """Plain dashes, dots and quotes; signs apart from words; a line end between two spaces, other whitespace as one."""
    text = SET_APART.sub(r" \g<0> ", text.translate(REPLACED))
    text = re.sub(r"\s*\n\s*", " \n ", text)
    return re.sub(r"[^\S\n]+", " ", text).strip()


@functools.cache
def _libraries() -> tuple[Callable[[str], str], Callable[[str], list[str]]]:
    try:
        import ftfy  # type: ignore[reportMissingImports] (an extra)
        import spacy  # type: ignore[reportMissingImports] (an extra)
    except ImportError as error:
        raise UserError(f"cleaning by spaCy needs {error.name}, which is missing: pip install 'lmjax[gpt1]'") from None
    tokenize = spacy.blank("en").tokenizer

    def words(text: str) -> list[str]:
        found = (token.text.lower() for token in tokenize(text))
        return ["\n" if word.isspace() else word for word in found]  # a line end takes the space behind it along

    return ftfy.fix_text, words
