"""The ChatGPT recipe of `make chatgpt` with several seeds, and PPO against the same reward model as its leash loosens.

    .venv/bin/python -m benchmarks.chatgpt [--directory runs/chatgpt_study] [--seeds 0 1 2] [--coefficients 0.05 0]

Resumable: runs that are there are passed over. benchmarks/results/chatgpt/ gets results.json, which keeps what other
seeds of the same recipe gave before, and overoptimisation.png, of the first seed named.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lmjax.chatgpt import recipe as recipes
from lmjax.chatgpt.measure import estimates, measure
from lmjax.chatgpt.recipe import Recipe
from lmjax.chatgpt.results import draw_course, table
from lmjax.chatgpt.stages import chatgpt
from lmjax.config import to_json
from lmjax.memory import keep_freed_memory
from lmjax.rlhf.ppo import align
from lmjax.train.checkpoint import steps_of
from lmjax.train.files import write_atomically

STOPPED = "stopped on the way; the same command goes on"
FOLDER = Path(__file__).parent / "results/chatgpt"
FILE = FOLDER / "results.json"


def known() -> dict[str, Any]:
    """What results.json holds, if it is of this recipe: runs are not committed, so it remembers other machines'."""
    recipe = to_json(Recipe())
    past = json.loads(FILE.read_text()) if FILE.exists() else {}
    return past if past.get("recipe") == recipe else {"recipe": recipe, "seeds": {}, "courses": {}}


def loosened(recipe: Recipe, coefficient: float) -> dict[str, Any]:
    """Policies of PPO with another coefficient, measured as they go; kept beside the recipe's own."""
    name = f"policy_{coefficient:g}"
    file = Path(recipe.path(f"{name}.json"))
    if not file.exists():
        align(replace(recipes.policy(replace(recipe, coefficient=coefficient)), directory=recipe.path(name)))
        if steps_of(recipe.path(name))[-1:] != [recipe.iterations]:
            sys.exit(STOPPED)
        measured = measure(recipe, recipes.course(recipe, name))
        write_atomically(file, json.dumps({step: estimates(one) for step, one in measured.items()}))
    return json.loads(file.read_text())


def draw(courses: dict[str, dict[str, Any]], tuned: dict[str, Any]) -> Figure:
    """A panel for each coefficient."""
    figure = Figure(figsize=(3.2 * len(courses), 3.4), layout="constrained")
    panels: Any = figure.subplots(1, len(courses), sharey=True, squeeze=False)[0]
    for axes, (coefficient, course) in zip(panels, courses.items(), strict=True):
        draw_course(axes, tuned, course)
        axes.set_title(f"coefficient {coefficient}", fontsize=10)
    panels[0].legend(fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", default="runs/chatgpt_study", type=Path, help="where the runs live")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--coefficients", type=float, nargs="*", default=[0.05, 0])
    given = parser.parse_args()
    keep_freed_memory()
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = known()
    for seed in given.seeds:
        of_seed = Recipe(seed=seed, directory=f"{given.directory}/seed={seed}")
        chatgpt(of_seed)
        results = Path(of_seed.path("results.json"))
        if not results.exists():
            sys.exit(STOPPED)
        ran_on = json.loads(Path(of_seed.path("policy/environment.json")).read_text())
        found["seeds"][str(seed)] = {**json.loads(results.read_text()), "environment": ran_on}
        write_atomically(FILE, json.dumps(found, indent=1) + "\n")
    first = Recipe(seed=given.seeds[0], directory=f"{given.directory}/seed={given.seeds[0]}")
    of_first = found["seeds"][str(first.seed)]
    found["courses"] = {f"{first.coefficient:g}": of_first["course"]}
    for coefficient in given.coefficients:
        found["courses"][f"{coefficient:g}"] = loosened(first, coefficient)
    write_atomically(FILE, json.dumps(found, indent=1) + "\n")
    draw(found["courses"], of_first["stages"]["tuned"]).savefig(FOLDER / "overoptimisation.png", dpi=120)
    for seed, one in found["seeds"].items():
        print(f"\nseed {seed}\n{table(one)}")


if __name__ == "__main__":
    main()
