"""The tasks. A new one is a file here and a line in TASKS."""

from collections.abc import Callable
from typing import Any

from lmjax.tasks import bilm, pretraining, translation
from lmjax.tasks.task import Task, TaskConfig

TASKS: dict[type[TaskConfig], Callable[[Any], Task]] = {
    pretraining.MlmConfig: pretraining.mlm,
    pretraining.ClmConfig: pretraining.clm,
    translation.TranslationConfig: translation.translation,
    bilm.BilmConfig: bilm.bilm,
}


def make_task(cfg: TaskConfig) -> Task:
    """The task that a config describes."""
    return TASKS[type(cfg)](cfg)
