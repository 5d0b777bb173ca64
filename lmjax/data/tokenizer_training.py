"""How vocabularies are trained and what pipelines stand around them. The algorithms are the libraries' own.

Each function returns the file to save, and the same texts always give the same bytes.
"""

import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import sentencepiece
import tokenizers as hf

from lmjax.errors import UserError

BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0-4 of a trained WordPiece
ROBERTA_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0-3 of a RoBERTa's vocabulary
MASK = "<mask>"  # and its last
END_OF_TEXT = "<|endoftext|>"
UNKNOWN, WORD_END = "<unk>", "</w>"  # GPT-1's
WORD_BREAK = "\x1f"  # between words that are cut before; no cleaned text holds it
COVERAGE = 0.9995  # share of a corpus's characters that the alphabet holds, as SentencePiece has it
THREADS = 2  # the sums of a SentencePiece training depend on their number, so it is not the machine's


def wordpiece_pipeline(vocab: dict[str, int], lowercase: bool) -> hf.Tokenizer:
    """BERT's pipeline: https://github.com/google-research/bert, tokenization.py."""
    tokenizer = hf.Tokenizer(hf.models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = hf.normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = hf.decoders.WordPiece()
    if vocab:
        tokenizer.add_special_tokens(list(BERT_SPECIALS))
        tokenizer.post_processor = hf.processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    return tokenizer


def byte_level_pipeline(model: Any) -> hf.Tokenizer:
    """GPT-2's pipeline around a BPE model: https://github.com/openai/gpt-2, src/encoder.py."""
    tokenizer = hf.Tokenizer(model)
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    return tokenizer


def word_bpe_pipeline(vocab: dict[str, int], merges: Sequence[tuple[str, str]], basic: bool) -> hf.Tokenizer:
    """GPT-1's BPE, the last piece of each word marked `</w>`: behind transformers' clean-up, BERT's, lower-cased; or,
    not `basic`, of words that were cut before, as in `spacy_bpe`."""
    model = hf.models.BPE(vocab, list(merges), unk_token=UNKNOWN, end_of_word_suffix=WORD_END, fuse_unk=False)
    tokenizer = hf.Tokenizer(model)
    tokenizer.normalizer = hf.normalizers.BertNormalizer(lowercase=True) if basic else hf.normalizers.Sequence([])
    before = hf.pre_tokenizers
    tokenizer.pre_tokenizer = before.BertPreTokenizer() if basic else before.CharDelimiterSplit(WORD_BREAK)
    tokenizer.decoder = hf.decoders.BPEDecoder(suffix=WORD_END)
    if vocab:
        tokenizer.add_special_tokens([UNKNOWN])
    return tokenizer


def roberta_pipeline(tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> hf.Tokenizer:
    """GPT-2's with fairseq's ids: <s>, <pad>, </s>, <unk>, the tokens in the order given, and <mask> as the last.

    In the released vocabulary the order is that of fairseq's dict.txt: GPT-2's tokens by frequency and three fillers.
    """
    vocab = {token: i for i, token in enumerate([*ROBERTA_SPECIALS, *tokens, MASK])}
    tokenizer = byte_level_pipeline(hf.models.BPE(vocab, merges))
    tokenizer.add_special_tokens([*ROBERTA_SPECIALS, hf.AddedToken(MASK, lstrip=True, special=True)])
    return tokenizer


def to_bytes(tokenizer: hf.Tokenizer) -> bytes:
    """Its tokenizer.json."""
    return tokenizer.to_str(pretty=True).encode()


def wordpiece(texts: Iterable[str], vocab_size: int, lowercase: bool) -> bytes:
    """A tokenizer.json. All texts are held in memory. Raises UserError where the alphabet exceeds `vocab_size`."""
    pipeline = wordpiece_pipeline({}, lowercase)
    texts = [pipeline.normalizer.normalize_str(text) for text in texts]
    begins, insides = alphabet(texts)
    smallest = len(BERT_SPECIALS) + len(begins) + len(insides)
    if smallest > vocab_size:
        raise UserError(f"vocab_size {vocab_size} is too small: special tokens and alphabet take {smallest}")
    # The library numbers "##x" in a hash map's order and breaks ties by number: naming them first makes all runs alike.
    trainer = hf.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[*BERT_SPECIALS, *(f"##{c}" for c in insides)],
        initial_alphabet=begins,
        limit_alphabet=len(begins),
    )
    pipeline.train_from_iterator(texts, trainer)
    return to_bytes(wordpiece_pipeline(pipeline.get_vocab(with_added_tokens=False), lowercase))


def alphabet(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The characters that make up `COVERAGE` of the texts, sorted, and those that follow another within a word."""
    counts, pairs = Counter[str](), set[tuple[str, str]]()
    for text in texts:
        counts.update(text)
        pairs.update(pairwise(text))
    ranked = sorted((-n, c) for c, n in counts.items() if not c.isspace())
    ends = np.cumsum([-n for n, _ in ranked])
    kept = {c for (n, c), end in zip(ranked, ends, strict=True) if end + n < COVERAGE * ends[-1]}
    return sorted(kept), sorted({b for a, b in pairs if b in kept and not a.isspace()})


def byte_bpe(texts: Iterable[str], vocab_size: int) -> bytes:
    """A tokenizer.json. Raises UserError where the 256 bytes alone exceed `vocab_size`."""
    return to_bytes(_trained_bpe(texts, vocab_size, [END_OF_TEXT]))


def roberta_bpe(texts: Iterable[str], vocab_size: int) -> bytes:
    """The same with RoBERTa's special tokens and order of ids."""
    special = [*ROBERTA_SPECIALS, MASK]
    trained = json.loads(_trained_bpe(texts, vocab_size, special).to_str())["model"]
    tokens = [token for token in sorted(trained["vocab"], key=trained["vocab"].get) if token not in special]
    return to_bytes(roberta_pipeline(tokens, [(a, b) for a, b in trained["merges"]]))


def _trained_bpe(texts: Iterable[str], vocab_size: int, special: list[str]) -> hf.Tokenizer:
    symbols = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(symbols) + len(special):
        raise UserError(
            f"vocab_size {vocab_size} is too small: special tokens and bytes take {len(symbols) + len(special)}"
        )
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=special,
        initial_alphabet=symbols,
    )
    pipeline = byte_level_pipeline(hf.models.BPE())
    pipeline.train_from_iterator(texts, trainer)
    return pipeline


def without_cleaning(data: bytes) -> bytes:
    """A tokenizer.json of GPT-1's kind for words that are cut before. Raises UserError for one of another kind."""
    model = json.loads(hf.Tokenizer.from_buffer(data).to_str())["model"]
    if model.get("end_of_word_suffix") != WORD_END:
        raise UserError("cleaning by spaCy is of GPT-1's BPE, of words that end in </w>; this vocabulary is another")
    return to_bytes(word_bpe_pipeline(model["vocab"], [(a, b) for a, b in model["merges"]], basic=False))


def word_bpe(texts: Iterable[str], vocab_size: int, basic: bool = True) -> bytes:
    """A tokenizer.json of GPT-1's kind; `basic` as in its pipeline. All texts are held in memory. Raises UserError
    where the alphabet exceeds `vocab_size`."""
    pipeline = word_bpe_pipeline({}, [], basic)
    texts = [pipeline.normalizer.normalize_str(text) for text in texts]
    symbols, _ = alphabet(texts)
    smallest = 1 + 2 * len(symbols)
    if smallest > vocab_size:
        raise UserError(f"vocab_size {vocab_size} is too small: {UNKNOWN} and the alphabet, twice, take {smallest}")
    # As above, the library numbers "x</w>" in a hash map's order: they are named first.
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[UNKNOWN, *(c + WORD_END for c in symbols)],
        initial_alphabet=symbols,
        limit_alphabet=len(symbols),
        end_of_word_suffix=WORD_END,
    )
    pipeline.train_from_iterator(texts, trainer)
    model = json.loads(pipeline.to_str())["model"]
    return to_bytes(word_bpe_pipeline(model["vocab"], [(a, b) for a, b in model["merges"]], basic))


def unigram(texts: Iterable[str], vocab_size: int) -> bytes:
    """A SentencePiece .model. Raises UserError where the library cannot make one."""
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(0)  # type: ignore[attr-defined]
    try:
        sentencepiece.SentencePieceTrainer.train(  # type: ignore[attr-defined]
            sentence_iterator=(text.replace("\0", " ") for text in texts),
            model_writer=model,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=COVERAGE,
            num_threads=THREADS,
            max_sentence_length=1 << 16,  # bytes; longer ones are left out
            input_sentence_size=2_000_000,
            shuffle_input_sentence=True,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            user_defined_symbols=["[MASK]"],
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"cannot train SentencePiece with vocab_size {vocab_size} on this corpus: {error}") from None
    return model.getvalue()
