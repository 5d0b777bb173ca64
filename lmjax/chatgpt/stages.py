"""`make chatgpt`: predict text; learn to answer; learn what is preferred; be reinforced against that.

Each step is an ordinary run in a directory of its own, which goes on where it was stopped; the same command again
passes over the steps that are done.
"""

import json
from collections.abc import Callable

import numpy as np
from etils import epath

from lmjax.chatgpt import recipe as recipes
from lmjax.chatgpt import world
from lmjax.chatgpt.measure import measure
from lmjax.chatgpt.recipe import ANSWER, CANDIDATES, Recipe
from lmjax.chatgpt.results import draw, table
from lmjax.collect.sample import sample_to
from lmjax.config import to_json
from lmjax.data.preferences import Ranking, as_row, read_rankings
from lmjax.errors import UserError
from lmjax.finetuning import finetune
from lmjax.generate import Sampling
from lmjax.interop import load
from lmjax.pretraining import pretrain
from lmjax.rlhf.ppo import align
from lmjax.train.checkpoint import steps_of
from lmjax.train.files import write_atomically


def chatgpt(recipe: Recipe) -> None:
    """All steps, and then DIRECTORY/results.json, results.png and the table on the screen.

    Raises:
      UserError: a directory of another recipe; what a step raises.
    """
    root = epath.Path(recipe.directory)
    check_same(recipe, root / "recipe.json")
    if not (root / "world/tests.jsonl").exists():
        write_world(recipe, root / "world")
    steps: dict[str, tuple[Callable[[], object], Callable[[], bool]]] = {
        "1  pretraining: predict the text of the pages": (
            lambda: pretrain(recipes.pretrained(recipe)),
            lambda: steps_of(root / "pretrained")[-1:] == [recipe.steps],
        ),
        "2  supervised tuning: answer as the experts do": (
            lambda: finetune(recipes.tuned(recipe)),
            (root / "tuned/result.json").exists,
        ),
        "3a choices: which of four answers do people prefer?": (
            lambda: collect(recipe, root / "world"),
            (root / "world/choices_heldout.jsonl").exists,
        ),
        "3b reward model: learn these choices": (
            lambda: finetune(recipes.judge(recipe)),
            (root / "judge/result.json").exists,
        ),
        "4  PPO: be reinforced against the reward model": (
            lambda: align(recipes.policy(recipe)),
            lambda: steps_of(root / "policy")[-1:] == [recipe.iterations],
        ),
        "   the same questions to every stage": (
            lambda: write_results(recipe, root),
            (root / "results.json").exists,
        ),
    }
    for title, (run, done) in steps.items():
        print(f"\n== {title}{': done' if done() else ''}", flush=True)
        if not done():
            run()
            if not done():
                return  # stopped on the way; the same command goes on
    print(f"\n{table(json.loads((root / 'results.json').read_text()))}\n\npicture: {root / 'results.png'}")
    print(f"talk to it: python -m lmjax chat {root / 'policy'}")


def check_same(recipe: Recipe, file: epath.Path) -> None:
    """Notes the recipe in its directory. Raises UserError where another one is noted."""
    meaning = {name: value for name, value in to_json(recipe).items() if name != "directory"}
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(meaning, indent=1))
    for name, value in json.loads(file.read_text()).items():
        if meaning.get(name) != value:
            raise UserError(f"{file.parent} was begun with {name} {value}, not {meaning.get(name)}; choose another one")


def write_world(recipe: Recipe, folder: epath.Path) -> None:
    """What there is to read, to learn from and to be asked; the file written last says that all is there."""
    rng = np.random.default_rng(recipe.seed)
    counts = {"demonstrations": recipe.demonstrations, "asked": recipe.choices, "asked_heldout": recipe.choices // 5}
    counts |= {"prompts": recipe.iterations * recipe.batch_size, "tests": recipe.tests}
    asked = {name: world.questions(rng, count) for name, count in counts.items()}
    shown = asked.pop("demonstrations")
    contents = {"pages.txt": "\n\n".join(world.pages(rng, recipe.pages))}
    contents |= {"demonstrations.jsonl": world.demonstrations(rng, shown)}
    contents |= {f"{name}.jsonl": world.prompts(some) for name, some in asked.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        write_atomically(folder / name, text)


def collect(recipe: Recipe, folder: epath.Path) -> None:
    """The tuned model's answers to what is asked, ranked by people of the world."""
    lm, rng = load(recipe.path("tuned/best")), np.random.default_rng((recipe.seed, 1))
    for name in ("", "_heldout"):
        answers = folder / f"answers{name}.jsonl"
        if not answers.exists():
            said = sample_to(lm, str(folder / f"asked{name}.jsonl"), CANDIDATES, Sampling(ANSWER), str(answers))
            print(said)
        ranked = (one._replace(ranks=tuple(world.chosen_ranks(rewards_of(one), rng))) for one in read_rankings(answers))
        write_atomically(folder / f"choices{name}.jsonl", "".join(f"{json.dumps(as_row(one))}\n" for one in ranked))


def rewards_of(ranking: Ranking) -> list[float]:
    """The true ones of its answers."""
    return [world.true_reward(ranking.turns[-1].text, answer) for answer in ranking.answers]


def write_results(recipe: Recipe, root: epath.Path) -> None:
    """RESULTS.json and the picture."""
    heldout = list(read_rankings(root / "world/choices_heldout.jsonl"))
    accuracy = json.loads((root / "judge/result.json").read_text())["figures"]
    judged = {name: accuracy[name] for name in ("accuracy", "accuracy_error")}
    judged["best_possible"] = world.best_accuracy([rewards_of(one) for one in heldout])
    runs = {"pretrained": "pretrained", "tuned": "tuned/best", "PPO": "policy"}
    course = {str(step): f"policy/checkpoints/{step}" for step in steps_of(root / "policy")}
    measured = measure(recipe, {**runs, **course})
    stages = {name: measured[name] for name in runs}
    found = {"judge": judged, "stages": stages, "course": {name: measured[name] for name in course}}
    write_atomically(root / "results.json", json.dumps(found, indent=1))
    draw(found).savefig(root / "results.png", dpi=130)
