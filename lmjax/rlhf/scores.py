"""A trained reward model: scores of answers, as a person asks for them and as a jitted program does.

Letters: B batch, L length.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors.numpy import load, save

from lmjax.data.chat_template import Turn
from lmjax.data.huggingface import write_tokenizer
from lmjax.data.preferences import answer_tokens
from lmjax.data.store import built_aside
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError
from lmjax.models import architecture_of
from lmjax.models.architecture import AttentionConfig, ModelConfig, portable
from lmjax.models.huggingface import Model, write_model
from lmjax.models.wrapped import init_wrapped, wrap
from lmjax.tasks import TaskConfig
from lmjax.tasks.reward import RewardConfig, every_reward
from lmjax.train.checkpoint import find, restore_params, steps_of
from lmjax.train.saved import describe_saved, read_part
from lmjax.types import Array, Params

MULTIPLE = 32  # rows are padded to multiples of it, so that a program serves many lengths


def is_reward_model(run: str | os.PathLike[str]) -> bool:
    """Whether a run, RUN/best or a checkpoint learned a reward."""
    directory = _run_of(run)
    is_ours = steps_of(directory) or _is_checkpoint(directory)
    return bool(is_ours) and isinstance(read_part(find(directory), TaskConfig, "task"), RewardConfig)


def finished(run: str | os.PathLike[str]) -> tuple[epath.Path, float]:
    """The best checkpoint of a reward run (RUN or RUN/best), and the `shift` of its RUN/result.json.

    Raises:
      UserError: no such run, one that is not finished, one of another task, or a checkpoint instead of its run.
    """
    directory = _run_of(run)
    if not is_reward_model(directory):
        raise UserError(f"{directory} is no reward model; `run_finetune.py configs/chatgpt/reward.py` trains one")
    if _is_checkpoint(directory):
        raise UserError(f"{directory} lacks the shift of its scores, which a run has for its best state; give the run")
    if not (directory / "result.json").exists():
        raise UserError(f"{directory} has no result.json: it is not finished; the command that began it goes on")
    result = json.loads((directory / "result.json").read_text())
    checkpoint = find(directory / "best")
    if int(checkpoint.name) != result["step"]:
        raise UserError(
            f"{directory}: result.json is of step {result['step']}, the best state of step {checkpoint.name}"
        )
    return checkpoint, float(result["figures"]["shift"])


def _run_of(path: str | os.PathLike[str]) -> epath.Path:
    directory = epath.Path(os.fspath(path)).expanduser()
    return directory.parent if directory.name == "best" else directory


def _is_checkpoint(directory: epath.Path) -> bool:
    return (directory / "state").is_dir()


def load_reward_model(run: str | os.PathLike[str]) -> "RewardModel":
    """The best state of a finished reward run, its scores shifted so that the held-out references, or without any the
    best answers, have mean 0: the run's `shift` is taken off the head's bias. Raises UserError as `finished` does."""
    cfg, tokenizer = describe_saved(run)
    checkpoint, shift = finished(run)
    assert tokenizer
    cfg = portable(cfg)
    params = dict(restore_params(checkpoint, abstract_reward_params(cfg)))
    params["reward"] = {**params["reward"], "bias": params["reward"]["bias"] - shift}
    return RewardModel(cfg, params, tokenizer, shift)


@dataclass(frozen=True, eq=False)
class RewardModel:
    """`shift` is off the parameters already; it says what was taken off."""

    config: ModelConfig
    params: Params
    tokenizer: Tokenizer
    shift: float

    def score(self, turns: Sequence[Turn], answers: Sequence[str]) -> np.ndarray:
        """float32 [answers], each as the next thing that the assistant says.

        Raises:
          UserError: a prompt that leaves no room for an answer. Of answers too long the beginning is scored.
        """
        texts, prompt = answer_tokens(self.tokenizer, turns, answers)
        assert isinstance(self.config, AttentionConfig)
        longest = self.config.max_position_embeddings
        if prompt >= longest:
            raise UserError(f"a prompt of {prompt} tokens leaves no room in the reward model's {longest} positions")
        rows = [text[:longest] for text in texts]
        width = min(longest, -(-max(map(len, rows)) // MULTIPLE) * MULTIPLE)
        tokens = np.array([row + [0] * (width - len(row)) for row in rows], np.int32)
        last = np.array([len(row) - 1 for row in rows], np.int32)
        return np.asarray(_score(self.config, self.params, tokens, last))

    def save_hf(self, directory: str | os.PathLike[str]) -> None:
        """Writes what transformers' AutoModelForSequenceClassification loads and trl takes for a reward model; the
        scores are the same, `shift` taken off. All or nothing.

        transformers' `score` has no bias: a bias c of a head w becomes c w / |w|^2 in the bias of the last
        normalisation. It scores several texts at once only by a pad token other than the end token, which GPT-2's
        tokenizer lacks.

        Raises:
          UserError: the directory exists; a shape that Hugging Face does not have.
        """
        path = epath.Path(os.fspath(directory)).expanduser()
        if path.exists():
            raise UserError(f"{path} exists already; choose another directory, or delete it")
        assert isinstance(self.config, AttentionConfig)
        params = {name: part for name, part in self.params.items() if name != "reward"}
        if "final_norm" not in params:
            raise UserError("this model ends without a normalisation of its own, which would carry the head's bias")
        head_D, bias = np.asarray(self.params["reward"]["kernel"])[:, 0], float(self.params["reward"]["bias"][0])
        norm = params["final_norm"]
        params["final_norm"] = {**norm, "bias": norm["bias"] + bias * head_D / (head_D @ head_D)}
        with built_aside(path) as building:
            write_model(Model(self.config, (), params, None), building)
            as_classifier(building, head_D[None], self.tokenizer)
            write_tokenizer(self.tokenizer, building, self.config.max_position_embeddings, False)


def as_classifier(directory: epath.Path, score_1D: np.ndarray, tokenizer: Tokenizer) -> None:
    """Makes a backbone's files those of its class ForSequenceClassification with one output."""
    file, config = directory / "model.safetensors", directory / "config.json"
    tensors = {f"transformer.{name}": tensor for name, tensor in load(file.read_bytes()).items()}
    file.write_bytes(save(tensors | {"score.weight": score_1D}, metadata={"format": "pt"}))
    content = json.loads(config.read_text())
    content["architectures"] = [content["architectures"][0].replace("Model", "ForSequenceClassification")]
    content |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": "regression"}
    if tokenizer.pad_id is not None and tokenizer.pad_id != tokenizer.eos_id:
        content["pad_token_id"] = tokenizer.pad_id
    config.write_text(json.dumps(content, indent=2) + "\n")


@partial(jax.jit, static_argnums=0)
def _score(cfg: ModelConfig, params: Params, tokens_BL: Array, last_B: Array) -> Array:
    return reward_function(cfg)(params, tokens_BL, last_B)


def reward_function(cfg: ModelConfig) -> Callable[..., Array]:
    """A pure function (params, tokens [B, L], last [B]) -> score float32 [B], the reward at the token `last` of texts
    that begin at column 0, ready to be jitted; what stands behind it does not matter."""
    module = wrap(architecture_of(cfg), cfg, (), every_reward)

    def score(params: Params, tokens_BL: Array, last_B: Array) -> Array:
        segment_ids_BL = (jnp.arange(tokens_BL.shape[1])[None] <= last_B[:, None]).astype(jnp.int32)
        outputs: Any = module.apply({"params": params}, {"tokens": tokens_BL, "segment_ids": segment_ids_BL})
        return jnp.take_along_axis(outputs["rewards"], last_B[:, None], -1)[:, 0]

    return score


def abstract_reward_params(cfg: ModelConfig) -> Params:
    """The parameters of a reward model, as ShapeDtypeStructs."""
    module = wrap(architecture_of(cfg), cfg, (), every_reward)
    texts = {name: jax.ShapeDtypeStruct((1, 2), np.int32) for name in ("tokens", "segment_ids")}
    return jax.eval_shape(partial(init_wrapped, module, texts), jax.random.key(0))
