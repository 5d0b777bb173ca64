"""Makes spacy_bpe.json: the ids that GPT-1's tokenizer, with ftfy and spaCy, gives to awkward text.

Transformers 5 cleans as BERT does; the last release that has the original's clean-up wants an environment of its own:

    pip install transformers==4.57.1 ftfy==6.3.1 spacy==3.8.18
    python tests/golden/make_spacy_bpe.py ../shared/data/tokenizers

Its `tokenize` lower-cases a text before ftfy and spaCy see it, which the original does after them; `_tokenize` is the
original's order.
"""

import json
import sys
from pathlib import Path

from transformers.models.openai.tokenization_openai import OpenAIGPTTokenizer

GOLDEN = Path(__file__).parent
TEXTS = [
    *json.loads((GOLDEN / "tokenizers.json").read_text())["texts"],
    "schÃ¶n &amp; gut, l’Ã©tÃ© — “quoted” ´accent´ ﬂuﬀy ＬＯＵＤ",
    "I can't, we'd've, y'all're; he's o'clock Mr. O'Neill's e.g. U.S.A. gonna cannot",
    "line one\n\n  line two \r\n\tline three\n",
    '--- ~~ !!?! ""x"" ;; (((a))) [[b]] {{c}} ||d|| __e__ //f// **g** ++h,,i -j- --k',
    "non-breaking–dash 3-4 $5.99 10,000km 50% #1 a@b.com http://a.b/c?d=e&f=g :-) <3 C:/x",
    "İÇ ŞIŞ DŽ ǅ ẞ Σίσυφος",
    "a\x1fb\x1cc\x85d",
]


def ids(tokenizer: OpenAIGPTTokenizer, text: str) -> list[int]:
    return tokenizer.convert_tokens_to_ids(tokenizer._tokenize(text)) if text else []


def main(folder: Path) -> None:
    tokenizer = OpenAIGPTTokenizer(str(folder / "gpt1-encoder_bpe_40000.json"), str(folder / "gpt1-vocab_40000.bpe"))
    assert tokenizer.fix_text, "ftfy or spaCy is missing"
    rows = [json.dumps([text, ids(tokenizer, text)], separators=(",", ":")) for text in TEXTS]
    (GOLDEN / "spacy_bpe.json").write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
