"""Contextual vectors: one for each word of a text, or one for each text, from any layers of a model."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
from tqdm import tqdm

from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError
from lmjax.interop import LanguageModel

Pool = Literal["none", "cls", "mean", "mix"]
LENGTH_MULTIPLE = 32  # rows are padded to multiples of it, so that few programs are compiled


class Embeddings(NamedTuple):
    """Row r of `vectors` (float32 [R, W]) belongs to text `texts[r]` (int32 [R]); `words[r]` is its word, or "" where
    the row stands for the whole text."""

    vectors: np.ndarray
    texts: np.ndarray
    words: list[str]


def embed(
    lm: LanguageModel,
    texts: Sequence[str],
    layers: Sequence[int] = (-1,),
    pool: Pool = "none",
    batch_size: int = 32,
    progress: bool = False,
) -> Embeddings:
    """Vectors of words or of texts. A model that reads words has one for each between whitespaces, and begins each text
    without a state (the released code carries it on from text to text).

    Args:
      layers: 0 is the embedding layer, 1 to N the blocks, -1 the last; several are laid side by side.
      pool: "none" a vector a word (the mean over its tokens); "mix" the same, the layers averaged and not side by side;
        "cls" a vector a text, at [CLS]; "mean" a vector a text, the mean over its words' tokens.

    Raises:
      UserError: a model that translates, a layer that the model lacks, "cls" from a model without
        [CLS], or a text without words.
    """
    if lm.translates:
        raise UserError("embed: this model translates; vectors are taken of models that read one text")
    N = lm.config.num_hidden_layers
    if wrong := [layer for layer in layers if not -N - 1 <= layer <= N]:
        raise UserError(f"layer {wrong[0]}: this model has layers 0 (embeddings) to {N}; -1 is the last")
    if pool == "cls" and (lm.causal or lm.reads_words):
        raise UserError("pool cls: a causal model has no [CLS], nor has ELMo; choose mean")
    vectors, owners, words = [], [], []
    starts = range(0, len(texts), batch_size)
    for start in tqdm(starts, "embed", unit=" batches", disable=not progress):
        batch = texts[start : start + batch_size]
        features = lm.encode(batch, multiple_of=LENGTH_MULTIPLE)
        states_LBTD = layer_states(lm, features, layers)
        for row, tokens in enumerate(features["tokens"]):
            if lm.reads_words:
                spans = [(i, i + 1, word) for i, word in enumerate(batch[row].split(), 1)]
            else:
                spans = list(word_spans(lm.tokenizer, tokens[: features["attention_mask"][row].sum()].tolist()))
            if not spans:
                raise UserError(f"text {start + row + 1} has no words: {texts[start + row]!r}")
            x_LTD = states_LBTD[:, row]
            x_LTD = x_LTD.mean(0, keepdims=True) if pool == "mix" else x_LTD
            x_TW = np.concatenate(x_LTD, axis=-1)
            if pool == "cls":
                found, names = x_TW[:1], [""]
            elif pool == "mean":
                found, names = np.concatenate([x_TW[a:b] for a, b, _ in spans]).mean(0, keepdims=True), [""]
            else:
                found, names = np.stack([x_TW[a:b].mean(0) for a, b, _ in spans]), [name for *_, name in spans]
            vectors.append(found)
            words += names
            owners += [start + row] * len(names)
    return Embeddings(np.concatenate(vectors), np.array(owners, np.int32), words)


def layer_states(lm: LanguageModel, features: Mapping[str, Any], layers: Sequence[int]) -> np.ndarray:
    """float32 [layers, B, T, D] of rows as `lm.encode` makes them; -1, or N, is the last layer."""
    outputs = dataclasses.replace(lm, heads=())(**features, collect=("hidden_states",))  # no logits
    # A decoder's last state goes through one more norm, which its heads read.
    last = (-1, lm.config.num_hidden_layers)
    states = [outputs["hidden"] if layer in last else outputs["hidden_states"][layer] for layer in layers]
    return np.asarray(np.stack(states), np.float32)


def word_spans(tokenizer: Tokenizer, tokens: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """(first token, end, the word) of each word. Special tokens are no words, but an unknown one is."""
    special = set(tokenizer.special_ids) - {tokenizer.unk_id}
    start = None
    for i, token in enumerate([*tokens, None]):
        ends = token is None or token in special
        if start is not None and (ends or tokenizer.word_begins[token] or tokenizer.word_ends[tokens[i - 1]]):
            name = tokenizer.decode(tokens[start:i]).strip()
            yield start, i, name or tokenizer.token(tokens[start])
            start = None
        if start is None and not ends:
            start = i


def save_embeddings(found: Embeddings, texts: Sequence[str], path: str) -> None:
    """Writes NAME.h5 (datasets vectors, words, text_of_row and texts), or NAME.npy with a table NAME.tsv beside it (the
    text's number and the word, for each row). Raises UserError for another kind of file."""
    file = Path(path)
    part = file.with_name(file.name + ".part")
    if file.suffix == ".h5":
        with h5py.File(part, "w") as store:
            store["vectors"], store["text_of_row"] = found.vectors, found.texts
            strings = h5py.string_dtype()
            store.create_dataset("words", data=found.words, dtype=strings)
            store.create_dataset("texts", data=list(texts), dtype=strings)
    elif file.suffix == ".npy":
        lines = [f"{text}\t{word}\n" for text, word in zip(found.texts, found.words, strict=True)]
        file.with_suffix(".tsv").write_text("".join(lines), encoding="utf-8")
        with part.open("wb") as stream:
            np.save(stream, found.vectors, allow_pickle=False)
    else:
        raise UserError(f"{path}: vectors are written to .npy or .h5")
    part.replace(file)
