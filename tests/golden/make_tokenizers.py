"""Makes tokenizers.json: the ids that Hugging Face's tokenizers and sentencepiece give to awkward text.

    .venv-parity/bin/python tests/golden/make_tokenizers.py ../shared/data/tokenizers

Where BERT's pure-Python tokenizer disagrees with the one that is used today, it says so: in characters of private use
(today kept, in BERT's own code dropped) and, cased, in accents written apart (only the pure-Python one composes them).
"""

import json
import sys
from pathlib import Path

import sentencepiece
from transformers import BertTokenizer, GPT2Tokenizer, OpenAIGPTTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

TEXTS = [
    "",
    " \t\n\r\n ",
    "The quick brown fox jumps over the lazy dog.",
    "unaffable unwanted running, WANTED Lower-Case mIxEd; don't you're o'clock",
    "Café naïve façade Ångström ÆØÅ İstanbul straße ﬁne Ⅷ ½ x² e\u0301 o\u0308\u0323 Ελληνικά Привет",
    "北京大学位于中国。「はい」、カタカナ 한국어 조선말 𠮷野家 ㄱㄴ ｆｕｌｌ　ｗｉｄｔｈ",
    "emoji 😀👍🏽 👩‍👩‍👧‍👦 🇩🇪 ☃️ ✈ and text",
    "control\x00null \x07bell \x1b[31mred\x7f \u200bzero\u200dwidth \u00adsoft \ufeffbom \ufffdreplaced \u2028line",
    "spaces\u00a0no-break\u3000ideographic\u2003em  double   triple\ttab\nnewline\n\n\nblank\r\nwindows ",
    "w" * 99 + " " + "w" * 100 + " " + "w" * 101 + " " + "ab" * 200,
    "numbers 3.14159 1,000,000 0xDEADBEEF 1e-5 ١٢٣ 2024-02-30 $5.00 €7 100% C++ a_b __init__ @user #tag http://x.y/z?q=1",
    "\"quotes\" 'single' “curly” ‘both’ «guillemets» …ellipsis – en — em ~ ` ^ | \\ / <tag> [x] {y} (z) !!! ???",
    "مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก",
    "mixed中文English混排。100元，OK？",
    "ending with space ",
    "written out: [MASK] [CLS][SEP] [mask] <|endoftext|><s></s> <mask>",
    "\ud7ff\ue000private \U0010fffd",
]
WORDPIECE = {"bert-base-uncased": True, "bert-base-cased": False, "bert-base-chinese": True}
MODELS = ["spiece", "sentencepiece_test_model", "transformers_test_sentencepiece_bpe"]


def wordpiece(file: Path, lowercase: bool) -> list[list[int]]:
    slow = BertTokenizerLegacy(str(file), do_lower_case=lowercase)
    fast = BertTokenizer(str(file), do_lower_case=lowercase)
    ids = [fast(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    for text, found in zip(TEXTS, ids, strict=True):
        expected = slow(text, add_special_tokens=False)["input_ids"]
        if found != expected:
            tokens = slow.convert_ids_to_tokens(expected), fast.convert_ids_to_tokens(found)
            print(f"{file.name}: the two disagree on {text!r}:", *tokens, sep="\n  ")
    return ids


def main(folder: Path) -> None:
    gpt2 = GPT2Tokenizer(str(folder / "gpt2-encoder.json"), str(folder / "gpt2-vocab.bpe"))
    ids = {name: wordpiece(folder / f"{name}-vocab.txt", lowercase) for name, lowercase in WORDPIECE.items()}
    ids["gpt2"] = [gpt2(text)["input_ids"] for text in TEXTS]
    gpt1 = OpenAIGPTTokenizer(str(folder / "gpt1-encoder_bpe_40000.json"), str(folder / "gpt1-vocab_40000.bpe"))
    ids["gpt1"] = [gpt1(text)["input_ids"] for text in TEXTS]
    for name in MODELS:
        ids[name] = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.model")).encode(TEXTS)
    rows = [f"{json.dumps(name)}: {json.dumps(rows, separators=(',', ':'))}" for name, rows in ids.items()]
    text = f'{{"texts": {json.dumps(TEXTS)},\n"ids": {{\n' + ",\n".join(rows) + "\n}}\n"
    Path(__file__).with_name("tokenizers.json").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
