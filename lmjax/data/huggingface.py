"""Tokenizers as transformers' AutoTokenizer reads them: tokenizer.json and tokenizer_config.json."""

import json
from typing import Any

import tokenizers as hf
from etils import epath

from lmjax.data.tokenizers import MERGES, SPACY_BPE, HuggingFaceTokenizer, SentencePieceTokenizer, Tokenizer

# what a directory may hold
VOCABULARIES = ("tokenizer.json", "*.model", "*.spm", SPACY_BPE, "vocab.txt", "words.txt", *MERGES)


def write_tokenizer(
    tokenizer: Tokenizer, directory: epath.Path, max_length: int, framed: bool, closed: bool = False
) -> None:
    """Writes the tokenizer's own file and what AutoTokenizer needs beside it.

    A SentencePiece .model of the unigram kind is also written as the tokenizer.json that gives the same tokens; for one
    of another kind, for Marian's own files, a vocabulary of words, or words that spaCy cuts, there is no such file.

    Args:
      max_length: of the model's rows, in tokens.
      framed: whether special tokens stand around a text, [CLS] A [SEP] B [SEP].
      closed: whether the end token follows a text, A </s>, as an encoder-decoder's sources have it.
    """
    tokenizer.save(directory)
    converted = hf_tokenizer(tokenizer)
    if converted is None:
        return
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    if cls is not None and sep is not None:
        converted.post_processor = _frame(tokenizer, cls, sep) if framed else None
    if closed and tokenizer.eos_id is not None:
        end = tokenizer.token(tokenizer.eos_id)
        converted.post_processor = hf.processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, tokenizer.eos_id)]
        )
    (directory / "tokenizer.json").write_text(converted.to_str(pretty=True))
    typed = framed and not separator_is_doubled(tokenizer)
    roles = {role: getattr(tokenizer, f"{role}_id") for role in ("pad", "unk", "cls", "sep", "mask", "eos")}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # the one that takes tokenizer.json as it stands
        "model_max_length": max_length,
        "model_input_names": ["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": tokenizer.token(i) for role, i in roles.items() if i is not None},
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def separator_is_doubled(tokenizer: Tokenizer) -> bool:
    """Whether pairs are RoBERTa's <s> A </s></s> B </s>, all of one type, and not BERT's [CLS] A [SEP] B [SEP]."""
    return tokenizer.sep_id == tokenizer.eos_id and tokenizer.token(tokenizer.mask_id or 0) == "<mask>"


def _frame(tokenizer: Tokenizer, cls_id: int, sep_id: int) -> Any:
    cls, sep = tokenizer.token(cls_id), tokenizer.token(sep_id)
    doubled = separator_is_doubled(tokenizer)
    return hf.processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 {sep}:0 $B:0 {sep}:0" if doubled else f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, cls_id), (sep, sep_id)],
    )


def hf_tokenizer(tokenizer: Tokenizer) -> hf.Tokenizer | None:
    """The same tokenizer in the `tokenizers` library, or None where that cannot be (words, spaCy, Marian,
    SentencePiece's BPE).

    A SentencePiece model gives the same ids either way, but for the spaces beside special tokens written in a text.
    """
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return hf.Tokenizer.from_buffer(tokenizer.data)
    if not isinstance(tokenizer, SentencePieceTokenizer):
        return None
    from sentencepiece import sentencepiece_model_pb2  # needs protobuf, and only this function does

    model: Any = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.data)  # type: ignore[attr-defined]
    training, charsmap = model.trainer_spec, model.normalizer_spec.precompiled_charsmap
    if training.model_type != training.UNIGRAM:
        return None
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    converted = hf.Tokenizer(hf.models.Unigram(pieces, training.unk_id, training.byte_fallback))
    spaces = [hf.normalizers.Strip(), hf.normalizers.Replace(hf.Regex(" {2,}"), " ")]
    converted.normalizer = hf.normalizers.Sequence(
        [hf.normalizers.Precompiled(charsmap), *spaces] if charsmap else spaces
    )
    converted.pre_tokenizer = hf.pre_tokenizers.Metaspace(prepend_scheme="always")
    converted.decoder = hf.decoders.Metaspace(prepend_scheme="always")
    special = [tokenizer.token(i) for i in tokenizer.special_ids]
    converted.add_special_tokens([hf.AddedToken(token, normalized=False) for token in special])
    return converted
