"""The config of a run of PPO, and what its paths hold: models, tokenizer and prompts, checked against each other."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from etils import epath

from lmjax.config import operational
from lmjax.data.chat_template import Turn, prompt_tokens
from lmjax.data.files import json_rows
from lmjax.data.prepare import WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError
from lmjax.models import architecture_of
from lmjax.models.architecture import AttentionConfig, Dtype, ModelConfig, check, check_use
from lmjax.parallel import MeshConfig
from lmjax.rlhf.advantages import KlConfig, ShapingConfig
from lmjax.rlhf.rollout import RolloutConfig, prompt_rows
from lmjax.run import RunConfig
from lmjax.tasks.pretraining import ClmConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig
from lmjax.train.saved import describe_saved


@dataclass(frozen=True)
class PretrainingConfig:
    """Pretraining text mixed into the updates (PPO-ptx, Ouyang et al. 2022; theirs: 27.8 and 8).

    Attributes:
      coefficient: of the language model's loss; 0 = no text is read.
      data: the corpora and their weights. `task`: how they are read.
      rows: of text for each answer of an iteration. `length`: of a row, in tokens.
    """

    coefficient: float = 0.0
    data: tuple[WeightedData, ...] = ()
    task: ClmConfig = ClmConfig()
    rows: int = 8
    length: int = 128


@dataclass(frozen=True, kw_only=True)
class PpoConfig:
    """A run of PPO.

    Attributes:
      directory: where the run lives.
      init_from: the supervised model (a run, RUN/best, a checkpoint or a Hugging Face directory), which the policy
        begins as and the reference stays.
      model: its shape, filled in when the run begins.
      task: what the trained policy is.
      reward_model: the run of a reward model, "" where `train_ppo` is given another reward.
      prompts: a file of JSON lines with "prompt". An empty prompt is the beginning of a document.
      rollout, shaping, kl: see there.
      pretraining: text mixed in.
      iterations: of rollout and update. `batch_size`: answers of an iteration. `epochs`: passes over them, each in
        `minibatches` updates, whose gradient is added over `micro_batches`.
      clip, value_clip: how far ratios and values may move. `value_coefficient`: of the values' loss.
      value: "head", on the policy's trunk and at first zero, or "network", at first a copy of the reward model.
      stop_at_kl: an iteration's further updates are left out once an update's approximate KL exceeds it (0 = never).
      optim: warm-up and decay count iterations.
      frozen_dtype: of the reference's parameters, and of a reward model's.
      dtype: of activations; None = as the supervised model was trained.
    """

    directory: str = operational("runs/ppo")
    init_from: str = ""
    model: ModelConfig | None = None
    task: ClmConfig = ClmConfig()
    reward_model: str = ""
    prompts: str
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    kl: KlConfig = field(default_factory=KlConfig)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    iterations: int = 1000
    batch_size: int = 64
    epochs: int = 4
    minibatches: int = 1
    micro_batches: int = 1
    clip: float = 0.2
    value_clip: float = 0.2
    value_coefficient: float = 0.1
    value: Literal["head", "network"] = "head"
    stop_at_kl: float = 0.0
    optim: OptimConfig = OptimConfig(peak_lr=1e-5, eps=1e-5, weight_decay=0.0, clip_norm=0.0)
    frozen_dtype: Dtype = "bfloat16"
    dtype: Dtype | None = None
    seed: int = 0
    checkpoint: CheckpointConfig = operational(CheckpointConfig(every=100))
    log: LogConfig = operational(LogConfig(every=1))
    mesh: MeshConfig = operational(MeshConfig())
    stop_at: int = operational(0)

    def __post_init__(self) -> None:
        if min(self.iterations, self.batch_size, self.epochs, self.minibatches, self.micro_batches) < 1:
            raise UserError("iterations, batch_size, epochs, minibatches and micro_batches are positive")
        if self.batch_size % (self.minibatches * self.micro_batches):
            cut = f"minibatches {self.minibatches} x micro_batches {self.micro_batches}"
            raise UserError(f"batch_size {self.batch_size} is not divisible by {cut}; change one of them")

    @property
    def micro_batch(self) -> int:
        """Rows of a micro-batch."""
        return self.batch_size // (self.minibatches * self.micro_batches)


@dataclass(frozen=True)
class Resolved:
    """A run with what its paths hold."""

    cfg: PpoConfig
    model: AttentionConfig
    critic: ModelConfig | None
    tokenizer: Tokenizer
    eos_id: int
    pad_id: int
    prompts: dict[str, np.ndarray]  # flush right


def resolve(cfg: PpoConfig, with_function: bool) -> Resolved:
    """Reads what the config names, without weights. `with_function`: whether a function scores the answers.

    Raises:
      UserError: a model that is not causal or has no tokenizer with an end token; padding that is the end token; a
        reward model with another tokenizer; no reward, or two; a prompt that does not fit.
    """
    if bool(cfg.reward_model) == with_function:
        raise UserError("one reward is needed: reward_model, the run of a reward model, or a function for train_ppo")
    if cfg.value == "network" and not cfg.reward_model:
        raise UserError("value 'network' begins as the reward model, and there is none; set value to 'head'")
    if not cfg.init_from:
        raise UserError("no model to begin with: init_from takes a run or a Hugging Face directory")
    model, tokenizer = describe_saved(cfg.init_from)
    check_use(model, architecture_of(model).heads, "generate")
    assert isinstance(model, AttentionConfig)
    check(model, cfg.rollout.prompt_length + cfg.rollout.response_length)
    if tokenizer is None or tokenizer.eos_id is None:
        raise UserError(f"{cfg.init_from} has no tokenizer with an end token, by which answers end")
    given = (cfg.rollout.pad_id, tokenizer.pad_id, int(tokenizer.eos_id == 0))
    pad_id = next(id for id in given if id is not None)
    if pad_id == tokenizer.eos_id:
        raise UserError(
            f"padding and end token are both {pad_id}; a real end would look like padding: set rollout.pad_id"
        )
    if not 0 <= pad_id < model.vocab_size:
        raise UserError(f"rollout.pad_id {pad_id} is not in the vocabulary of {model.vocab_size} entries")
    critic = None
    if cfg.reward_model:
        judge, theirs = describe_saved(cfg.reward_model)
        if theirs is None or theirs.fingerprint != tokenizer.fingerprint:
            raise UserError(
                f"{cfg.init_from} and {cfg.reward_model} have different tokenizers; train one from the other"
            )
        critic = judge if cfg.value == "network" else None
    if cfg.dtype is not None:
        model = dataclasses.replace(model, dtype=cfg.dtype)
    prompts = [_prompt_tokens(tokenizer, text) for text in read_prompts(cfg.prompts)]
    cfg = dataclasses.replace(cfg, model=model)
    rows = prompt_rows(prompts, cfg.rollout.prompt_length)
    return Resolved(cfg, model, critic, tokenizer, tokenizer.eos_id, pad_id, rows)


def read_prompts(path: str) -> list[str]:
    """The prompts of a file of JSON lines. Raises UserError, by the line, for what is none."""
    file, found = epath.Path(path).expanduser(), []
    if not file.is_file():
        raise UserError(f'no file of prompts {path}; it holds JSON lines with a "prompt"')
    for number, row in json_rows(file):
        if not isinstance(row.get("prompt"), str):
            raise UserError(f'{path}, line {number}: no text "prompt"')
        found.append(row["prompt"])
    if not found:
        raise UserError(f"{path} holds no prompt")
    return found


def _prompt_tokens(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """As what a user says, where the model was tuned in a chat template."""
    assert tokenizer.eos_id is not None
    if tokenizer.chat_template:
        return prompt_tokens(tokenizer.chat_template, tokenizer, [Turn("user", prompt)]).tolist()
    return tokenizer.encode(prompt) or [tokenizer.eos_id]


def text_run(cfg: PpoConfig) -> RunConfig:
    """The pretraining text's batches as those of a run with a step for each iteration."""
    mixed = cfg.pretraining
    if not mixed.data or cfg.model is None:
        raise UserError("pretraining.coefficient is set, but pretraining.data names no text")
    stage = Stage(cfg.iterations, mixed.rows * cfg.batch_size, mixed.length, cfg.minibatches * cfg.micro_batches)
    return RunConfig(model=cfg.model, task=mixed.task, data=mixed.data, stages=(stage,), seed=cfg.seed, mesh=cfg.mesh)
