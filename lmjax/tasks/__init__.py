"""The tasks. A new one is a file here and a line in TASKS."""

from collections.abc import Callable
from typing import Any

from lmjax.tasks import (
    bilm,
    choice,
    classification,
    dpo,
    instruction,
    pretraining,
    reward,
    spans,
    tagging,
    translation,
)
from lmjax.tasks.task import SupervisedConfig, Task, TaskConfig, adapted

TASKS: dict[type[TaskConfig], Callable[[Any], Task]] = {
    pretraining.MlmConfig: pretraining.mlm,
    pretraining.ClmConfig: pretraining.clm,
    translation.TranslationConfig: translation.translation,
    bilm.BilmConfig: bilm.bilm,
    classification.ClassificationConfig: classification.classification,
    spans.SpanConfig: spans.spans,
    choice.ChoiceConfig: choice.choice,
    tagging.TaggingConfig: tagging.tagging,
    instruction.InstructionConfig: instruction.instruction,
    reward.RewardConfig: reward.reward,
    dpo.DpoConfig: dpo.dpo,
}


def make_task(cfg: TaskConfig) -> Task:
    """The task that a config describes."""
    task = TASKS[type(cfg)](cfg)
    return adapted(task, cfg) if isinstance(cfg, SupervisedConfig) else task
