"""`make chatgpt`: predict text; learn to answer; learn what is preferred; be reinforced against that.

Each step is an ordinary run in a directory of its own, which goes on where it was stopped; the same command again
passes over the steps that are done.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from lmjax.chatgpt import recipe as recipes
from lmjax.chatgpt import world
from lmjax.chatgpt.measure import Said, estimate, estimates, measure
from lmjax.chatgpt.recipe import ANSWER, CANDIDATES, Recipe
from lmjax.chatgpt.results import NAMES, draw, show_samples, table
from lmjax.collect.sample import sample_to
from lmjax.config import stored
from lmjax.data.preferences import Ranking, as_row, read_prompts, read_rankings
from lmjax.finetuning import finetune
from lmjax.generate import Sampling
from lmjax.interop import load
from lmjax.pretraining import pretrain
from lmjax.rlhf.ppo import align
from lmjax.train.checkpoint import check_same_meaning, steps_of
from lmjax.train.files import write_atomically

SAMPLES = 8  # questions whose answers are shown


def chatgpt(recipe: Recipe) -> None:
    """All steps, and then DIRECTORY/results.json, results.png and the table on the screen.

    Raises:
      UserError: a directory of another recipe; what a step raises.
    """
    root, goal = epath.Path(recipe.directory), recipes.policy(recipe)  # a bad recipe is refused before anything is made
    check_same_meaning(root, recipe)
    if not (root / "config.json").exists():
        root.mkdir(parents=True, exist_ok=True)
        write_atomically(root / "config.json", json.dumps(stored(recipe), indent=1))
    if not (root / "world/tests.jsonl").exists():
        write_world(recipe, root / "world")
    steps: dict[str, tuple[Callable[[], object], Callable[[], bool]]] = {
        "1  pretraining: predict the text of the pages": (
            lambda: pretrain(recipes.pretrained(recipe)),
            lambda: _reported(root / "pretrained", recipe.steps),
        ),
        "2  supervised tuning: answer as the experts do": (
            lambda: finetune(recipes.tuned(recipe)),
            (root / "tuned/report.html").exists,
        ),
        "3a choices: which of four answers do people prefer?": (
            lambda: collect(recipe, root / "world"),
            (root / "world/choices_heldout.jsonl").exists,
        ),
        "3b reward model: learn these choices": (
            lambda: finetune(recipes.judge(recipe)),
            (root / "judge/report.html").exists,
        ),
        "4  PPO: be reinforced against the reward model": (
            lambda: align(goal),
            lambda: _reported(root / "policy", recipe.iterations) and (root / "policy/samples.json").exists(),
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
    print(f"answers of all stages: {root / 'policy/report.html'}")
    print(f"talk to it, each question by itself (/reset before the next): python -m lmjax chat {root / 'policy'}")


def _reported(run: epath.Path, steps: int) -> bool:
    return steps_of(run)[-1:] == [steps] and (run / "report.html").exists()


def write_world(recipe: Recipe, folder: epath.Path) -> None:
    """What there is to read, to learn from and to be asked; the file written last says that all is there. What is held
    out stands in no other file. Each file is drawn from a generator of its own."""

    def rng(number: int) -> np.random.Generator:
        return np.random.default_rng((recipe.seed, number))

    choices = -(-recipe.choices // 5)
    heldout = world.different_questions(rng(0), choices + recipe.tests)
    asked_heldout, tests = heldout[:choices], heldout[choices:]
    seen = frozenset(heldout)
    shown = world.questions(rng(1), recipe.demonstrations, seen)
    contents = {
        "pages.txt": "\n\n".join(world.pages(rng(2), recipe.pages, seen)),
        "demonstrations.jsonl": world.demonstrations(rng(3), shown),
        "asked.jsonl": world.prompts(world.questions(rng(4), recipe.choices, seen)),
        "asked_heldout.jsonl": world.prompts(asked_heldout),
        "prompts.jsonl": world.prompts(world.questions(rng(5), recipe.iterations * recipe.batch_size, seen)),
        "tests.jsonl": world.prompts(tests),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        write_atomically(folder / name, text)


def collect(recipe: Recipe, folder: epath.Path) -> None:
    """The tuned model's answers to what is asked, ranked by people of the world."""
    lm = load(recipe.path("tuned/best"))
    for number, name in enumerate(("", "_heldout")):
        answers, rng = folder / f"answers{name}.jsonl", np.random.default_rng((recipe.seed, 6, number))
        if not answers.exists():
            asked, seed = str(folder / f"asked{name}.jsonl"), 2 * recipe.seed + number
            print(sample_to(lm, asked, CANDIDATES, Sampling(ANSWER), str(answers), seed))
        ranked = (one._replace(ranks=tuple(world.chosen_ranks(rewards_of(one), rng))) for one in read_rankings(answers))
        write_atomically(folder / f"choices{name}.jsonl", "".join(f"{json.dumps(as_row(one))}\n" for one in ranked))


def rewards_of(ranking: Ranking) -> list[float]:
    """The true ones of its answers."""
    return [world.true_reward(ranking.turns[-1].text, answer) for answer in ranking.answers]


def write_results(recipe: Recipe, root: epath.Path) -> None:
    """The stages' answers in the policy's report, results.png, and then results.json, which says that all is done."""
    course = recipes.course(recipe)
    measured = measure(recipe, {"pretrained": "pretrained", "tuned": "tuned/best", **course})
    measured["PPO"] = measured[str(recipe.iterations)]
    heldout = [rewards_of(one) for one in read_rankings(root / "world/choices_heldout.jsonl")]
    judged = json.loads((root / "judge/result.json").read_text())["figures"]
    stages = {name: measured[name] for name in NAMES}
    found = {
        "stages": {name: estimates(said) for name, said in stages.items()},
        "gain": estimate(measured["PPO"].figures["true_reward"] - measured["tuned"].figures["true_reward"]),
        "judge": {**{k: judged[k] for k in ("accuracy", "accuracy_error")}, "ceiling": world.best_accuracy(heldout)},
        "course": {name: estimates(measured[name]) for name in course},
        "samples": samples(recipe, stages),
    }
    show_samples(root / "policy", found["samples"])
    draw(found).savefig(root / "results.png", dpi=130)
    write_atomically(root / "results.json", json.dumps(found, indent=1))


def samples(recipe: Recipe, stages: Mapping[str, Said]) -> list[dict[str, Any]]:
    """The first test questions, with the right answers and what each stage said: [answer, true reward]."""
    asked = [turns[-1].text for _, turns in read_prompts(recipe.path("world/tests.jsonl"))][:SAMPLES]
    return [
        {"asked": one, "right": world.right_answer(one)}
        | {name: [said.answers[i], said.figures["true_reward"][i]] for name, said in stages.items()}
        for i, one in enumerate(asked)
    ]
