"""The recipes of fine-tuning: each is loaded, and the commands that its docstring names are ones that parse."""

import re
from pathlib import Path

import pytest

from lmjax.config import load_config, override
from lmjax.finetuning import FinetuneConfig
from lmjax.tasks import make_task

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted((CONFIGS / "finetune").glob("*.py")), ids=lambda path: path.stem)
def test_a_recipe_is_loaded_and_its_commands_parse(path: Path) -> None:
    said, recipe = path.read_text().split('"""')[1], load_config(str(path), FinetuneConfig)
    ((config, arguments),) = re.findall(r"python run_finetune\.py (\S+) ?(.*)", said)
    assert config == str(path.relative_to(CONFIGS.parent))
    assert override(recipe, arguments.split(), "").init_from == "MODEL"
    for more in re.findall(r"\(the official files: (.*?)\)", said):
        override(recipe, more.split(), "")
    for grid in re.findall(r"--grid ((?:\S+=[\w.,-]+ ?)+)", said):
        for entry in grid.split():
            name, values = entry.split("=")
            for value in values.rstrip(",").split(","):  # a comma ends the grid in a sentence
                override(recipe, [f"--{name.replace('_', '-')}", value], "")
    task = make_task(recipe.task).supervised
    assert task
    assert task.name == path.stem
    assert recipe.directory == f"runs/finetune/{path.stem}"
