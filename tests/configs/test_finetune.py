"""The recipes of fine-tuning: each is loaded and finds its files; the commands that its docstring and the page name are
ones that parse."""

import functools
import re
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from lmjax import commands
from lmjax.config import load_config, override
from lmjax.finetuning import FinetuneConfig
from lmjax.study import one_run
from lmjax.tasks import make_task
from lmjax.tasks.classification import ClassificationConfig, read_splits

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
NOT_HERE = {"mnli", "qnli", "squad1", "swag"}  # their files are not in ../shared/data


@pytest.mark.parametrize("path", sorted((CONFIGS / "finetune").glob("*.py")), ids=lambda path: path.stem)
def test_a_recipe_is_loaded_and_its_commands_parse(path: Path) -> None:
    said, recipe = path.read_text().split('"""')[1], load_config(str(path), FinetuneConfig)
    ((config, arguments),) = re.findall(r"python run_finetune\.py (\S+) ?(.*)", said)
    assert config == str(path.relative_to(CONFIGS.parent))
    assert override(recipe, arguments.split(), "").init_from == "MODEL"
    for more in re.findall(r"\(the official files: (.*?)\)", said):
        override(recipe, more.split(), "")
    for grid in re.findall(r"--grid ((?:\S+=[\w.,-]+ ?)+)", said):
        check_grid(recipe, [entry.rstrip(",") for entry in grid.split()])  # a comma ends the grid in a sentence
    task = make_task(recipe.task).supervised
    assert task
    assert task.name == path.stem
    assert recipe.directory == f"runs/finetune/{path.stem}"


def check_grid(recipe: FinetuneConfig, grid: Iterable[str]) -> None:
    for entry in grid:
        name, values = entry.split("=")
        for value in values.split(","):
            one_run(recipe, (f"{name}={value}",), 0)


def test_commands_of_the_page_parse() -> None:
    page = (ROOT / "docs/finetuning.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in page.split("\n") if line.startswith("python run_finetune")]
    assert len(commands) > 8
    for _, _, config, *arguments in commands:
        recipe = override(load_config(str(ROOT / config), FinetuneConfig), arguments, "")
        assert recipe.init_from
        check_grid(recipe, recipe.grid)


def noted(verb: Callable[..., None], called: list[str]) -> Callable[..., None]:
    """With the signature of `verb`, and nothing done."""

    @functools.wraps(verb)
    def note(*_: Any, **__: Any) -> None:
        called.append(verb.__name__)

    return note


def test_commands_of_the_page_about_evaluation_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verb and option is one that there is."""
    page = (ROOT / "docs/evaluation.md").read_text().replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in page.split("\n") if line.startswith("python -m lmjax ")]
    called: list[str] = []
    for _, _, _, verb, *arguments in lines:
        monkeypatch.setitem(commands.VERBS, verb, noted(commands.VERBS[verb], called))
        commands.run([verb, *arguments])
    assert len(called) == len(lines) > 8


@pytest.mark.parametrize("name", sorted({path.stem for path in (CONFIGS / "finetune").glob("*.py")} - NOT_HERE))
def test_a_recipe_finds_its_files(name: str, shared_data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMJAX_DATA", str(shared_data("README.md").parent))
    task = make_task(load_config(str(CONFIGS / f"finetune/{name}.py"), FinetuneConfig).task).supervised
    assert task
    assert task.fingerprint()


def test_lcqmc_is_cut_in_two(shared_data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMJAX_DATA", str(shared_data("lcqmc/dev.txt").parents[1]))
    task = load_config(str(CONFIGS / "finetune/lcqmc.py"), FinetuneConfig).task
    assert isinstance(task, ClassificationConfig)
    assert {name: len(split) for name, split in read_splits(task).items()} == {"train": 7922, "heldout": 880}
