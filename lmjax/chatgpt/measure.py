"""What the stages of the recipe say to the same questions: its true worth, the reward model's score, and how far it
lies from what the tuned model says."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from lmjax.chatgpt import world
from lmjax.chatgpt.recipe import ANSWER, PROMPT, Recipe
from lmjax.data.chat_template import prompt_tokens
from lmjax.data.preferences import read_prompts
from lmjax.evals.scoring import Request, score
from lmjax.generate import Sampling, generate
from lmjax.interop import LanguageModel, load
from lmjax.rlhf.reward_model import Reward, scorer
from lmjax.rlhf.scores import load_reward_model

Estimate = tuple[float, float]  # a mean, and half the width of its 95% confidence interval


class Said(NamedTuple):
    """A stage's answers and, by name, their `figures`, float64 [questions]: true_reward; polite and right, 1 where the
    answer has the courtesy and where it has no slip; score, the reward model's, of the tokens that were drawn; kl,
    nats, their log-probability less that under the tuned model; ended, 1 where the end token came."""

    answers: list[str]
    figures: dict[str, np.ndarray]


def measure(recipe: Recipe, runs: Mapping[str, str]) -> dict[str, Said]:
    """Of each run, by name, one answer drawn to each test question at temperature 1.

    The pretrained model is merely prompted: it gets the tuned model's chat template.
    """
    reference, judge = load(recipe.path("tuned/best")), load_reward_model(recipe.path("judge"))
    turns = [turns for _, turns in read_prompts(recipe.path("world/tests.jsonl"))]
    asked = {
        said[-1].text: prompt_tokens(reference.chat_template, reference.tokenizer, said).tolist() for said in turns
    }
    reward = scorer(judge.config, judge.params)
    return {
        name: measured(load(recipe.path(run)), reference, reward, asked, recipe.seed)
        for name, run in tqdm(runs.items(), "stages", disable=None, delay=1)
    }


def measured(
    lm: LanguageModel, reference: LanguageModel, reward: Reward, asked: Mapping[str, Sequence[int]], seed: int
) -> Said:
    """`lm`'s answer to each question (`asked`: its prompt's tokens), and how far it lies from `reference`."""
    eos_id, prompts = reference.tokenizer.eos_id, list(asked.values())
    assert eos_id is not None
    new = generate(lm.config, lm.params, prompts, Sampling(ANSWER), eos_id=eos_id, seed=seed)
    texts = [reference.tokenizer.decode(tokens).strip() for tokens in new]
    ended = [len(tokens) < ANSWER for tokens in new]
    drawn = [tokens + [eos_id] * end for tokens, end in zip(new, ended, strict=True)]
    requests = [Request(*both) for both in zip(prompts, drawn, strict=True)]
    own, theirs = ([one.log_probabilities.sum() for one in score(model, requests)] for model in (lm, reference))
    found = {
        "true_reward": [world.true_reward(*both) for both in zip(asked, texts, strict=True)],
        "polite": [world.courtesy(text)[0] for text in texts],
        "right": [world.is_right(*both) for both in zip(asked, texts, strict=True)],
        "score": reward(*map(jnp.asarray, _rows(prompts, drawn))),
        "kl": np.subtract(own, theirs),
        "ended": ended,
    }
    return Said(texts, {name: np.asarray(values, np.float64) for name, values in found.items()})


def _rows(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """tokens int32 and is_response bool [questions, PROMPT + ANSWER], as a `Reward` reads them."""
    tokens = np.zeros((len(prompts), PROMPT + ANSWER), np.int32)
    is_response = np.zeros(tokens.shape, bool)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        tokens[row, :end] = [*prompt, *answer]
        is_response[row, len(prompt) : end] = True
    return tokens, is_response


def estimates(said: Said) -> dict[str, Estimate]:
    return {name: estimate(values) for name, values in said.figures.items()}


def estimate(values: np.ndarray) -> Estimate:
    """The mean, and 1.96 standard errors of it."""
    return float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))
