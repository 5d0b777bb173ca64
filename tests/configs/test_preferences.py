"""The recipes on preferences: each is loaded, and the commands that its docstring names are ones that parse."""

import re
from pathlib import Path

import pytest

from lmjax.config import load_config, override
from lmjax.finetuning import FinetuneConfig
from lmjax.tasks import make_task

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["reward", "dpo", "tiny_reward", "tiny_dpo"])
def test_a_recipe_is_loaded_and_its_commands_parse(name: str) -> None:
    path = ROOT / f"configs/chatgpt/{name}.py"
    said, recipe = path.read_text().split('"""')[1], load_config(str(path), FinetuneConfig)
    ((config, arguments),) = re.findall(r"python run_finetune\.py (\S+) ?(.*)", said)
    assert config == f"configs/chatgpt/{name}.py"
    assert override(recipe, arguments.split(), "").init_from
    for more in re.findall(r"(?:files|own): (--.*?)\)", said):
        override(recipe, more.split(), "")
    assert make_task(recipe.task).supervised
