"""The config of a run of PPO, and what its paths hold: models, tokenizer and prompts, checked against each other."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np

from lmjax.config import operational
from lmjax.data.chat_template import Turn, prompt_tokens
from lmjax.data.preferences import read_prompts
from lmjax.data.prepare import WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.store import Store
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError
from lmjax.models.architecture import AttentionConfig, Dtype, ModelConfig, Remat
from lmjax.ops.attention import Implementation
from lmjax.parallel import MeshConfig
from lmjax.rlhf.advantages import KlConfig, ShapingConfig
from lmjax.rlhf.rollout import RolloutConfig, prompt_rows
from lmjax.rlhf.scores import finished
from lmjax.run import RunConfig
from lmjax.tasks.pretraining import ClmConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig
from lmjax.train.saved import check_predicts, describe_saved, digest_of_saved


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

    def __post_init__(self) -> None:
        if self.coefficient < 0 or min(self.rows, self.length) < 1:
            raise UserError(
                f"pretraining.coefficient {self.coefficient} is not negative, rows {self.rows} and length "
                f"{self.length} are positive"
            )


@dataclass(frozen=True)
class Digests:
    """Of what a run's paths held when it began, "" for none: a run does not go on with anything else."""

    init_from: str = ""
    reward_model: str = ""
    prompts: str = ""


@dataclass(frozen=True, kw_only=True)
class PpoConfig:
    """A run of PPO.

    Attributes:
      directory: where the run lives.
      init_from: the supervised model (a run, RUN/best, a checkpoint or a Hugging Face directory), which the policy
        begins as and the reference stays.
      model: its shape, filled in when the run begins.
      task: what the trained policy is.
      reward_model: the run of a reward model, whose best state scores; "" where `train_ppo` is given another reward.
      prompts: a file of them, see `data.preferences.read_prompts`. To a model without a chat template, an empty one is
        the beginning of a document.
      long_prompts: what becomes of prompts of more than `rollout.prompt_length` tokens: "refuse" the file, or "drop"
        them, counted (Ouyang et al. 2022, appendix C).
      digests: of what these paths hold, filled in when the run begins.
      rollout, shaping, kl: see there.
      pretraining: text mixed in.
      iterations: of rollout and update. `batch_size`: answers of an iteration. `epochs`: passes over them, each in
        `minibatches` updates, whose gradient is added over `micro_batches`.
      clip, value_clip: how far ratios and values may move. `value_coefficient`: of the values' loss.
      value: "head", on the policy's trunk and at first zero, or "network", at first a copy of the reward model.
      stop_at_kl: an iteration's further updates are left out once an update's approximate KL exceeds it (0 = never).
      optim: warm-up and decay count iterations.
      frozen_dtype: of the reference's parameters, and of a reward model's.
      dtype: of the activations of policy, reference and values; None = as their models were trained.
      attention, remat: of policy and values in the update. (Answers are drawn by the kernel that runs anywhere.)
    """

    directory: str = operational("runs/ppo")
    init_from: str = ""
    model: ModelConfig | None = None
    task: ClmConfig = ClmConfig()
    reward_model: str = ""
    prompts: str
    long_prompts: Literal["refuse", "drop"] = "refuse"
    digests: Digests = Digests()
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
    attention: Implementation = "xla"
    remat: Remat = "none"
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
        if self.rollout.rows and self.batch_size % self.rollout.rows:
            raise UserError(f"batch_size {self.batch_size} is not divisible by rollout.rows {self.rollout.rows}")
        if min(self.clip, self.value_clip) <= 0 or min(self.value_coefficient, self.stop_at_kl) < 0:
            raise UserError(
                f"clip {self.clip} and value_clip {self.value_clip} are positive, value_coefficient "
                f"{self.value_coefficient} and stop_at_kl {self.stop_at_kl} not negative"
            )
        if self.kl.target and self.kl.horizon <= 0.2 * self.batch_size:
            raise UserError(
                f"kl.horizon {self.kl.horizon:g} is so short beside batch_size {self.batch_size} that an iteration may "
                f"turn the coefficient's sign; raise it above {0.2 * self.batch_size:g}"
            )
        if self.seed < 0:
            raise UserError(f"seed {self.seed} is negative")
        if self.optim.unit != "steps":
            raise UserError(f"optim.unit {self.optim.unit}: the rate goes by iterations; set it to steps")

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
      UserError: what is no causal language model, or has no tokenizer with an end token; padding that is the end
        token; a reward model that is none, or has another tokenizer or template; a model too short for prompt and
        answer; no reward, or two; a prompt that does not fit.
    """
    if bool(cfg.reward_model) == with_function:
        raise UserError("one reward is needed: reward_model, the run of a reward model, or a function for train_ppo")
    if cfg.value == "network" and not cfg.reward_model:
        raise UserError("value 'network' begins as the reward model, and there is none; set value to 'head'")
    if not cfg.init_from:
        raise UserError("no model to begin with: init_from takes a run or a Hugging Face directory")
    model, tokenizer = describe_saved(cfg.init_from)
    check_predicts(cfg.init_from, model)
    assert isinstance(model, AttentionConfig)
    _check_room(cfg.init_from, model, cfg.rollout)
    if tokenizer is None or tokenizer.eos_id is None:
        raise UserError(f"{cfg.init_from} has no tokenizer with an end token, by which answers end")
    pad_id = _padding(cfg.rollout, tokenizer, model.vocab_size)
    judge = _judge(cfg, tokenizer) if cfg.reward_model else None
    critic = judge if cfg.value == "network" else None
    model = dataclasses.replace(model, **_plan(cfg, model))
    critic = critic and dataclasses.replace(critic, **_plan(cfg, critic))
    prompts = _prompts(cfg, tokenizer)
    digests = Digests(
        init_from=digest_of_saved(cfg.init_from),
        reward_model=digest_of_saved(finished(cfg.reward_model)[0]) if cfg.reward_model else "",
        prompts=hashlib.sha256(b"".join(rows.tobytes() for rows in prompts.values())).hexdigest()[:12],
    )
    cfg = dataclasses.replace(cfg, model=model, digests=digests)
    return Resolved(cfg, model, critic, tokenizer, tokenizer.eos_id, pad_id, prompts)


def _plan(cfg: PpoConfig, model: ModelConfig) -> dict[str, Any]:
    """What the config says of a model beyond its shape."""
    plan = {"dtype": cfg.dtype or model.dtype, "remat": cfg.remat}
    return plan | ({"attention": cfg.attention} if isinstance(model, AttentionConfig) else {})


def _check_room(source: str, model: ModelConfig, cfg: RolloutConfig) -> None:
    """Raises UserError where a model has fewer positions than a prompt with its answer."""
    if not isinstance(model, AttentionConfig) or model.position_embedding != "learned":
        return
    rows, needed = model.max_position_embeddings, cfg.prompt_length + cfg.response_length
    if needed > rows:
        raise UserError(
            f"{source} has {rows} positions, a prompt and its answer {needed} tokens: lower rollout.prompt_length or "
            "rollout.response_length"
        )


def _padding(cfg: RolloutConfig, tokenizer: Tokenizer, vocab_size: int) -> int:
    given = (cfg.pad_id, tokenizer.pad_id, int(tokenizer.eos_id == 0))
    pad_id = next(id for id in given if id is not None)
    if pad_id == tokenizer.eos_id:
        raise UserError(
            f"padding and end token are both {pad_id}; a real end would look like padding: set rollout.pad_id"
        )
    if not 0 <= pad_id < vocab_size:
        raise UserError(f"rollout.pad_id {pad_id} is not in the vocabulary of {vocab_size} entries")
    return pad_id


def _judge(cfg: PpoConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The reward model's shape, where it reads what the policy writes."""
    judge, theirs = describe_saved(cfg.reward_model)
    if theirs is None or theirs.fingerprint != tokenizer.fingerprint:
        raise UserError(f"{cfg.init_from} and {cfg.reward_model} have different tokenizers; train one from the other")
    if theirs.chat_template != tokenizer.chat_template:
        raise UserError(
            f"{cfg.init_from} and {cfg.reward_model} have different chat templates; tune both with one task.template"
        )
    _check_room(cfg.reward_model, judge, cfg.rollout)
    return judge


def _prompts(cfg: PpoConfig, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    rows, room = [], cfg.rollout.prompt_length
    prompts = read_prompts(cfg.prompts)
    for where, turns in prompts:
        row = _prompt_tokens(tokenizer, turns, where)
        if len(row) <= room:
            rows.append(row)
        elif cfg.long_prompts == "refuse":
            raise UserError(
                f"{where}: the prompt has {len(row)} tokens, rollout.prompt_length is {room}; raise it, cut the "
                "prompt, or set long_prompts to drop"
            )
    if not rows:
        raise UserError(f"{cfg.prompts}: all prompts are longer than the {room} tokens of rollout.prompt_length")
    if len(rows) < len(prompts) and jax.process_index() == 0:
        left_out = len(prompts) - len(rows)
        print(f"{cfg.prompts}: {left_out} of {len(prompts)} prompts left out, longer than {room} tokens", flush=True)
    return prompt_rows(rows, room)


def _prompt_tokens(tokenizer: Tokenizer, turns: Sequence[Turn], where: str) -> list[int]:
    """What the assistant is to answer; of a model without a chat template, what it is to continue."""
    assert tokenizer.eos_id is not None
    if tokenizer.chat_template:
        return prompt_tokens(tokenizer.chat_template, tokenizer, turns).tolist()
    if len(turns) > 1 or turns[0].input:
        raise UserError(f"{where}: a conversation, and the model has no chat template; tune it to answer first")
    return tokenizer.encode(turns[0].text) or [tokenizer.eos_id]


def text_run(cfg: PpoConfig) -> RunConfig:
    """The pretraining text's batches as those of a run with a step for each iteration."""
    mixed = cfg.pretraining
    if not mixed.data or cfg.model is None:
        raise UserError("pretraining.coefficient is set, but pretraining.data names no text")
    stage = Stage(cfg.iterations, mixed.rows * cfg.batch_size, mixed.length, cfg.minibatches * cfg.micro_batches)
    return RunConfig(
        model=cfg.model,
        task=mixed.task,
        data=mixed.data,
        stages=(stage,),
        init_from=cfg.init_from,
        seed=cfg.seed,
        mesh=cfg.mesh,
    )


def check_text(cfg: PpoConfig, text: RunConfig, tokenizer: Tokenizer) -> None:
    """Raises UserError where pretraining text was not encoded by the policy's tokenizer."""
    for entry in text.data:
        if Store.open(entry.data.store).tokenizer.fingerprint != tokenizer.fingerprint:
            raise UserError(
                f"{entry.data.store} is of another tokenizer than {cfg.init_from}; make another store, whose tokenizer "
                "is read from there"
            )
