"""The four steps of the ChatGPT recipe on the made-up world, as configs of ordinary runs."""

from dataclasses import dataclass
from pathlib import Path

from lmjax.config import operational
from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import TextFiles
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.errors import UserError
from lmjax.finetuning import FinetuneConfig
from lmjax.models.gpt import GptConfig
from lmjax.rlhf.advantages import KlConfig, ShapingConfig
from lmjax.rlhf.config import PpoConfig
from lmjax.rlhf.rollout import RolloutConfig
from lmjax.run import RunConfig
from lmjax.tasks.instruction import InstructionConfig
from lmjax.tasks.pretraining import ClmConfig
from lmjax.tasks.reward import RewardConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig

PROMPT, ANSWER = 40, 12  # tokens at most
CANDIDATES = 4  # answers to a prompt that are ranked
OFTEN = CheckpointConfig(every=200, keep=1)  # half a minute


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All four steps.

    Attributes:
      directory: where the world's files and the runs of the steps live.
      seed: of the world, the models and all draws.
      pages, steps: of text, and of pretraining on it.
      demonstrations: of the experts, a twentieth of them held out.
      choices: prompts whose answers are ranked to learn from, and a fifth as many held out.
      iterations, batch_size: of PPO, and its answers in each.
      coefficient: of the divergence from the tuned model; the true reward is at most 5.
      tests: questions by which the stages are compared.
    """

    directory: str = operational("runs/chatgpt")
    seed: int = 0
    pages: int = 40_000
    steps: int = 1200
    demonstrations: int = 6000
    choices: int = 4000
    iterations: int = 80
    batch_size: int = 256
    coefficient: float = 0.2
    tests: int = 512

    def __post_init__(self) -> None:
        counts = ("pages", "steps", "demonstrations", "choices", "iterations", "batch_size", "tests")
        if self.seed < 0 or min(getattr(self, name) for name in counts) < 1:
            raise UserError(f"{self}: the seed is not negative, all counts are positive")

    def path(self, name: str) -> str:
        return str(Path(self.directory) / name)


def pretrained(recipe: Recipe) -> RunConfig:
    """A GPT-2 of four layers reads the pages."""
    text = TextFiles((recipe.path("world/pages.txt"),), documents="blank_line")
    data = DataConfig(recipe.path("stores/pages"), text, TokenizerConfig("byte_bpe", 320))
    model = GptConfig(
        vocab_size=320,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=256,
        max_position_embeddings=64,
        initializer_range=64**-0.5,  # 0.02 is meant for a width of 768
        hidden_dropout=0.0,
        attention_dropout=0.0,
        embedding_dropout=0.0,
    )
    return RunConfig(
        directory=recipe.path("pretrained"),
        model=model,
        task=ClmConfig(),
        data=(WeightedData(data),),
        stages=(Stage(recipe.steps, 64, 64),),
        optim=OptimConfig(peak_lr=3e-3, warmup=recipe.steps // 20, b2=0.95, decay="cosine", end_factor=0.1),
        seed=recipe.seed,
        evaluation=EvalConfig(every=recipe.steps, rows=128),
        checkpoint=OFTEN,
    )


def tuned(recipe: Recipe) -> FinetuneConfig:
    """It learns the form of answers from the experts, slips and all."""
    task = InstructionConfig(
        data="demonstrations",
        folder=recipe.path("world"),
        train="demonstrations.jsonl",
        heldout_share=0.05,
        template="lines",
    )
    return FinetuneConfig(
        directory=recipe.path("tuned"),
        init_from=recipe.path("pretrained"),
        task=task,
        length=64,
        batch_size=16,
        epochs=6.0,
        evaluate_each=2.0,
        optim=OptimConfig(peak_lr=1e-3, b2=0.95, decay="cosine"),
        seed=recipe.seed,
        stores=recipe.path("stores"),
        checkpoint=OFTEN,
    )


def judge(recipe: Recipe) -> FinetuneConfig:
    """The tuned model learns which of several answers of its own people prefer."""
    task = RewardConfig(
        data="rankings",
        folder=recipe.path("world"),
        train="choices.jsonl",
        heldout="choices_heldout.jsonl",
        candidates=CANDIDATES,
    )
    return FinetuneConfig(
        directory=recipe.path("judge"),
        init_from=recipe.path("tuned/best"),
        task=task,
        length=PROMPT + ANSWER,
        batch_size=32,
        epochs=4.0,
        optim=OptimConfig(peak_lr=1.5e-3, b2=0.95, weight_decay=0.0, decay="cosine", end_factor=0.1),
        seed=recipe.seed,
        stores=recipe.path("stores"),
        checkpoint=OFTEN,
    )


def policy(recipe: Recipe) -> PpoConfig:
    """The tuned model is reinforced against the judge. An answer that does not end counts as a bad one."""
    return PpoConfig(
        directory=recipe.path("policy"),
        init_from=recipe.path("tuned/best"),
        reward_model=recipe.path("judge"),
        prompts=recipe.path("world/prompts.jsonl"),
        rollout=RolloutConfig(PROMPT, ANSWER),
        shaping=ShapingConfig(missing_eos="replace", missing_eos_penalty=5.0),
        kl=KlConfig(recipe.coefficient),
        iterations=recipe.iterations,
        batch_size=recipe.batch_size,
        optim=OptimConfig(peak_lr=3e-4, warmup=5, eps=1e-5, weight_decay=0.0, clip_norm=1.0),
        frozen_dtype="float32",
        seed=recipe.seed,
        checkpoint=CheckpointConfig(every=_eighth(recipe), keep=1, keep_period=_eighth(recipe)),
        log=LogConfig(every=1),
    )


def course(recipe: Recipe, name: str = "policy") -> dict[str, str]:
    """The run's checkpoints by which PPO is followed, by iteration: those that a run has which nobody stopped."""
    steps = [*range(_eighth(recipe), recipe.iterations, _eighth(recipe)), recipe.iterations]
    return {str(step): f"{name}/checkpoints/{step}" for step in steps}


def _eighth(recipe: Recipe) -> int:
    return -(-recipe.iterations // 8)
