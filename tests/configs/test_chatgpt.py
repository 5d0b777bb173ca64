"""The configs of supervised tuning are loaded, and the commands that their docstrings name are ones that parse."""

import re
from pathlib import Path

import pytest

from lmjax.config import load_config, override
from lmjax.finetuning import FinetuneConfig
from lmjax.tasks import make_task

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["sft", "tldr_sft", "tiny_sft"])
def test_a_recipe_is_loaded_and_its_commands_parse(name: str) -> None:
    path = CONFIGS / f"chatgpt/{name}.py"
    said, recipe = path.read_text().split('"""')[1], load_config(str(path), FinetuneConfig)
    ((config, arguments),) = re.findall(r"python run_finetune\.py (\S+) ?(.*)", said)
    assert config == str(path.relative_to(CONFIGS.parent))
    assert override(recipe, arguments.split(), "").init_from
    assert f"chat {recipe.directory}/best" in said
    for line in said.split("\n"):
        options = re.findall(r"--\S+ [\w.-]+", line.split("MODEL")[-1]) if "run_finetune" not in line else []
        override(recipe, [part for option in options if "init-from" not in option for part in option.split()], "")
    task = make_task(recipe.task).supervised
    assert task
    assert task.chat_template
