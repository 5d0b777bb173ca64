"""A trained model as its user meets it: load it, call it on arrays, encode text, generate, hand it to Hugging Face.

`attention_mask` is known here, at the border, and nowhere else: inside, segment 0 is padding.
Letters: B batch, L length, D hidden size, V vocabulary, N layers, H heads.
"""

import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath

from lmjax.beam import Beam, translate
from lmjax.data.chat_template import ChatTemplate, Turns, prompt_tokens
from lmjax.data.huggingface import separator_is_doubled, write_tokenizer
from lmjax.data.store import built_aside
from lmjax.data.tokenizers import Tokenizer
from lmjax.data.words import BEGIN_SENTENCE, CHARACTERS, END_SENTENCE, NUM_CHARACTERS, spell
from lmjax.errors import UserError, did_you_mean
from lmjax.generate import Sampling, generate
from lmjax.models import architecture_of
from lmjax.models.architecture import (
    Architecture,
    AttentionConfig,
    EncoderDecoderConfig,
    ModelConfig,
    check,
    check_use,
    num_params,
)
from lmjax.models.huggingface import Model, write_model
from lmjax.models.task_layers import TaskLayer
from lmjax.ops.vocabulary import VocabLogits
from lmjax.train.saved import read_saved
from lmjax.types import Array, Params

COLLECTED = ("hidden_states", "attentions", "encoder_attentions", "cross_attentions")


def load(path: str | os.PathLike[str], average: int = 1) -> "LanguageModel":
    """The model of a run (its newest checkpoint), of RUN/best, of one checkpoint, or of a Hugging Face directory.

    `average`: of a run, the mean of the parameters of so many of its last checkpoints (Vaswani et al. 2017, section
    6.1). Only JSON, arrays and safetensors are read: nothing in the directory is executed or unpickled.

    Raises:
      UserError: nothing there, or something damaged or unknown, named.
    """
    model, tokenizer = read_saved(path, average)
    return LanguageModel(model.config, model.heads, model.params, tokenizer, model.layer)


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A model with its parameters, made by `load`; `vocabulary` is None where none lay beside the weights. `layer`:
    what a fine-tuned task has on top, as Hugging Face's classes have it; calls do not run it, `save_hf` writes it."""

    config: ModelConfig
    heads: tuple[str, ...]
    params: Params
    vocabulary: Tokenizer | None
    layer: TaskLayer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises UserError where none lay beside the weights."""
        if self.vocabulary is None:
            raise UserError(
                "this model has no tokenizer; put its files (tokenizer.json, vocab.txt, ...) beside its weights"
            )
        return self.vocabulary

    @property
    def causal(self) -> bool:
        """Whether tokens see only what stands before them."""
        return "cache" in self._architecture.inputs

    @property
    def translates(self) -> bool:
        """Whether an encoder reads a text of its own."""
        return isinstance(self.config, EncoderDecoderConfig)

    @property
    def longest(self) -> int:
        """The most tokens that `encode` puts in a row; an ELMo has no limit."""
        return self.config.max_position_embeddings if isinstance(self.config, AttentionConfig) else sys.maxsize

    @property
    def reads_words(self) -> bool:
        """Whether it reads words by their characters, and needs no tokenizer for that."""
        return self._architecture.reads == "words"

    @property
    def num_params(self) -> int:
        """Parameters, without the rows that pad the vocabulary."""
        of_layer = jax.tree.leaves(self.params[self.layer.name]) if self.layer else []
        return num_params(self._architecture, self.config, self.heads) + sum(x.size for x in of_layer)

    def __call__(self, *, collect: Sequence[str] = (), **features: Any) -> dict[str, Array]:
        """Runs the model without dropout; compiled once for each shape.

        Args:
          features: of these, what the model knows: tokens [B, L], attention_mask [B, L] (1 real, 0 padding),
            token_type_ids, segment_ids, positions [B, L], mlm_positions [B, M] (logits there only), encoder_tokens,
            encoder_segment_ids (0 padding), encoder_positions [B, S]. All integers. A model that reads words takes
            tokens [B, L, C], see `data.words.spell`.
          collect: what is wanted of "hidden_states" [N+1, B, L, D] and the float32 probabilities "attentions"
            [N, B, H, L, L]; of a model that translates, also "encoder_attentions" and "cross_attentions".

        Returns:
          hidden [B, L, D] in the model's dtype; logits (forward_logits, backward_logits) float32 [B, L, V]; pooled
          [B, D] and next_sentence_logits float32 [B, 2] where the model has them; and what was to be collected.

        Raises:
          UserError: an unknown, missing or misshapen feature, ids or positions out of range, rows longer than the
            position table; something unknown to collect.
        """
        if isinstance(collect, str) or not set(collect) <= set(COLLECTED):
            raise UserError(f"collect {collect!r} is no list of {', '.join(COLLECTED)}")
        return _forward(self.config, self.heads, tuple(collect), self.params, self._inputs(features))

    def encode(self, texts: str | Sequence[str | tuple[str, str]], multiple_of: int = 1) -> dict[str, Any]:
        """Text as features, int32 [B, L] each: `lm(**lm.encode(texts))`. A pair of texts is BERT's sentences A and B.

        BERT's rows are [CLS] A [SEP] B [SEP], RoBERTa's <s> A </s></s> B </s>; GPT's have no special tokens; an
        encoder's are A </s>, with B (if there is one) after the start token for the decoder; ELMo's words, split at
        whitespace, stand between <S> and </S>, tokens [B, L, C]. Rows are padded on the right to the longest, rounded
        up to `multiple_of`. Rows that outgrow the position table are cut, with a warning (an encoder's are not).
        """
        split = [(t,) if isinstance(t, str) else t for t in ([texts] if isinstance(texts, str) else texts)]
        if not split:
            raise UserError("there is no text to encode")
        if isinstance(self.config, EncoderDecoderConfig):
            return self._encode_pairs(self.config, split, multiple_of)
        if self.reads_words:
            return _spelled([[word for text in row for word in text.split()] for row in split], multiple_of)
        ids = iter(self.tokenizer.encode_batch([text for row in split for text in row]))
        begin, between, end = self._frame()
        rows, too_long = [], 0
        for texts_of_row in split:
            parts = [next(ids) for _ in texts_of_row]
            more = len(parts) - 1
            room = self.longest - len(begin) - len(end) * len(parts) - len(between) * more
            too_long += sum(map(len, parts)) > room
            while sum(map(len, parts)) > room:
                max(parts, key=len).pop()
            rows.append(([*begin, *parts[0], *end], [token for part in parts[1:] for token in [*between, *part, *end]]))
        if too_long:
            cut = f"{too_long} of {len(rows)} texts were cut to the model's {self.longest} positions"
            warnings.warn(cut, stacklevel=2)
        return self._padded(rows, multiple_of)

    def encode_words(
        self, sentences: Sequence[Sequence[str]], multiple_of: int = 1
    ) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        """Sentences of given words, single texts as `encode` has them, and of each sentence its words' first tokens and
        ends, int64 [words, 2]. Words that outgrow the position table are left out of both."""
        if self.reads_words:
            bounds = [np.arange(1, len(words) + 1)[:, None] + np.array([[0, 1]]) for words in sentences]
            return _spelled([list(words) for words in sentences], multiple_of), bounds
        begin, _, end = self._frame()
        spaced = [f" {word}" if i else word for words in sentences for i, word in enumerate(words)]
        ids, unknown = iter(self.tokenizer.encode_batch(spaced)), [self.tokenizer.unk_id or 0]
        rows, bounds = [], []
        for words in sentences:
            parts = [next(ids) or unknown for _ in words]
            sizes = np.array([len(part) for part in parts], np.int64)
            sizes = sizes[np.cumsum(sizes) <= self.longest - len(begin) - len(end)]
            ends = len(begin) + np.cumsum(sizes)
            rows.append(([*begin, *(token for part in parts[: len(sizes)] for token in part), *end], []))
            bounds.append(np.stack([ends - sizes, ends], 1))
        return self._padded(rows, multiple_of), bounds

    def _encode_pairs(
        self, cfg: EncoderDecoderConfig, texts: Sequence[tuple[str, ...]], multiple_of: int
    ) -> dict[str, np.ndarray]:
        start, end = cfg.decoder_start_token_id, cfg.eos_token_id
        sources = [[*ids, end] for ids in self.tokenizer.encode_batch([row[0] for row in texts])]
        targets = [[start, *ids] for ids in self.tokenizer.encode_targets([" ".join(row[1:]) for row in texts])]
        read, mask = _rectangle(sources, multiple_of, start)
        tokens, real = _rectangle(targets, multiple_of, start)
        return {"tokens": tokens, "attention_mask": real, "encoder_tokens": read, "encoder_segment_ids": mask}

    def translate(self, texts: str | Sequence[str], beam: Beam | None = None, batch_size: int = 32) -> list[str]:
        """The best translation of each text by beam search. Raises UserError for a model without an encoder."""
        check_use(self.config, self.heads, "translate")
        assert isinstance(self.config, EncoderDecoderConfig)
        rows = self.tokenizer.encode_batch([texts] if isinstance(texts, str) else texts)
        sources = [[*ids, self.config.eos_token_id] for ids in rows]
        found = translate(self.config, self.params, sources, beam or Beam(), batch_size)
        return [self.tokenizer.decode(one.tokens).strip() for one in found]

    def generate(self, prompts: str | Sequence[str], sampling: Sampling | None = None, seed: int = 0) -> list[str]:
        """A continuation of each prompt, without it. An empty prompt stands for the beginning of a document.

        Raises:
          UserError: a model that is not causal.
        """
        check_use(self.config, self.heads, "generate")
        tokenizer = self.tokenizer
        start = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        rows = [ids or start for ids in tokenizer.encode_batch([prompts] if isinstance(prompts, str) else prompts)]
        new = generate(self.config, self.params, rows, sampling or Sampling(), eos_id=tokenizer.eos_id, seed=seed)
        return [tokenizer.decode(ids) for ids in new]

    @property
    def chat_template(self) -> ChatTemplate:
        """Raises UserError where the model was not tuned to answer."""
        if self.tokenizer.chat_template is None:
            raise UserError("this model has no chat template: it was not tuned to answer (see docs/chatgpt.md)")
        return self.tokenizer.chat_template

    def answer(self, conversations: Sequence[Turns], sampling: Sampling | None = None, seed: int = 0) -> list[str]:
        """What the assistant says next in each conversation.

        Raises:
          UserError: a model that is not causal or has no chat template, or a conversation too long for it.
        """
        check_use(self.config, self.heads, "generate")
        template, tokenizer = self.chat_template, self.tokenizer
        prompts = [prompt_tokens(template, tokenizer, turns).tolist() for turns in conversations]
        new = generate(self.config, self.params, prompts, sampling or Sampling(), eos_id=tokenizer.eos_id, seed=seed)
        return [tokenizer.decode(ids).strip() for ids in new]

    def save_hf(self, directory: str | os.PathLike[str]) -> None:
        """Writes what transformers loads: config.json, model.safetensors and the tokenizer's files; all or nothing.

        Raises:
          UserError: the directory is not empty, or Hugging Face's architecture lacks this model's input layer.
        """
        path = epath.Path(directory).expanduser()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} exists already; choose another directory, or delete it")
        with built_aside(path) as building:
            write_model(Model(self.config, self.heads, self.params, self.layer), building)
            if self.vocabulary is not None:
                write_tokenizer(self.vocabulary, building, self.longest, not self.causal, closed=self.translates)
            if path.exists():
                path.rmdir()

    @property
    def _architecture(self) -> Architecture:
        return architecture_of(self.config)

    def _known(self) -> set[str]:
        return {"attention_mask", *self._architecture.inputs} - {"cache", "carry"}

    def _frame(self) -> tuple[list[int], list[int], list[int]]:
        """What stands before a row, before its second text, and after each text."""
        if self.causal:
            return [], [], []
        cls, sep = self.tokenizer.cls_id, self.tokenizer.sep_id
        if cls is None or sep is None:
            raise UserError("the tokenizer has no [CLS] and [SEP], which this model puts around a text")
        return [cls], [sep] if separator_is_doubled(self.tokenizer) else [], [sep]

    def _padded(self, rows: list[tuple[list[int], list[int]]], multiple_of: int) -> dict[str, np.ndarray]:
        tokens, mask = _rectangle([a + b for a, b in rows], multiple_of, self.tokenizer.pad_id or 0)
        types = np.zeros_like(tokens)
        for i, (a, b) in enumerate(rows):
            types[i, len(a) : len(a) + len(b)] = 1
        features = {"tokens": tokens, "attention_mask": mask, "token_type_ids": types}
        return {name: value for name, value in features.items() if name in self._known()}

    def _inputs(self, features: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The module's inputs, checked."""
        known = self._known()
        if unknown := sorted(set(features) - known):
            raise UserError(f"this model knows no '{unknown[0]}'{did_you_mean(unknown[0], known)}")
        for name in ("tokens", "encoder_tokens"):
            if name in known and name not in features:
                raise UserError(f"{name} are missing")
        inputs = dict(_checked(features, self.config, self.reads_words))
        check(self.config, max(inputs[name].shape[1] for name in ("tokens", "encoder_tokens") if name in inputs))
        if "attention_mask" in inputs:
            if "segment_ids" in inputs:
                raise UserError("give attention_mask or segment_ids, not both")
            mask = inputs["segment_ids"] = inputs.pop("attention_mask")
            if self.causal:  # real tokens are counted, wherever the padding stands
                inputs.setdefault("positions", np.maximum(np.cumsum(mask, axis=1, dtype=np.int32) - 1, 0))
        return inputs


def _rectangle(rows: Sequence[Sequence[int]], multiple_of: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids padded on the right, and 1 where they are real, int32 [B, L] each."""
    width = -(-max(1, *map(len, rows)) // multiple_of) * multiple_of
    tokens = np.array([[*row, *[pad] * (width - len(row))] for row in rows], np.int32)
    return tokens, (np.arange(width) < np.array([[len(row)] for row in rows])).astype(np.int32)


def _spelled(rows: list[list[str]], multiple_of: int) -> dict[str, np.ndarray]:
    """Sentences of words as tokens [B, L, C] and attention_mask [B, L]."""
    framed = [spell([BEGIN_SENTENCE, *words, END_SENTENCE]) for words in rows]
    width = -(-max(map(len, framed)) // multiple_of) * multiple_of
    mask = (np.arange(width)[None] < np.array([[len(row)] for row in framed])).astype(np.int32)
    tokens = np.zeros((*mask.shape, CHARACTERS), np.int32)
    tokens[mask == 1] = np.concatenate(framed)
    return {"tokens": tokens, "attention_mask": mask}


def _checked(features: Mapping[str, Any], cfg: ModelConfig, words: bool) -> Iterator[tuple[str, np.ndarray]]:
    ids = NUM_CHARACTERS if words else cfg.vocab_size
    limits = {
        "tokens": ids,
        "encoder_tokens": ids,
        "token_type_ids": getattr(cfg, "type_vocab_size", 0),
        "attention_mask": 2,
        "mlm_positions": (*np.shape(features["tokens"]), 0, 0)[1],
    }
    if isinstance(cfg, AttentionConfig) and cfg.position_embedding == "learned":
        limits |= dict.fromkeys(("positions", "encoder_positions"), cfg.max_position_embeddings)
    for name, value in features.items():
        array, like = np.asarray(value), "encoder_tokens" if name.startswith("encoder_") else "tokens"
        rank, wanted = (3, "[batch, length, characters]") if words and name == "tokens" else (2, "[batch, length]")
        axes = 1 if name == "mlm_positions" else 2
        fits = array.shape[:axes] == np.shape(features[like])[:axes]
        if array.dtype.kind not in "iub" or array.ndim != rank or not fits:
            raise UserError(f"{name} must be integers {wanted} like {like}; found {array.dtype} {array.shape}")
        if name in limits and array.size and (array.min() < 0 or array.max() >= limits[name]):
            raise UserError(f"{name} holds {array.min()} to {array.max()}; possible is 0 to {limits[name] - 1}")
        yield name, array.astype(np.int32)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _forward(
    cfg: ModelConfig, heads: tuple[str, ...], collect: tuple[str, ...], params: Params, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    outputs = architecture_of(cfg).build(cfg, heads).apply({"params": params}, **inputs, collect=bool(collect))
    outputs = {k: v for k, v in outputs.items() if k in collect or k not in COLLECTED}
    return {k: v.dense() if isinstance(v, VocabLogits) else v for k, v in outputs.items()}
