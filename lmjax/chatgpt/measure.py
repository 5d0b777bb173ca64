"""What the stages of the recipe say to the same questions: its true worth, the reward model's score, and how far it
lies from what the tuned model says."""

from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from lmjax.chatgpt import world
from lmjax.chatgpt.recipe import ANSWER, Recipe
from lmjax.data.chat_template import Turn, prompt_tokens
from lmjax.data.preferences import read_prompts
from lmjax.evals.scoring import Request, score
from lmjax.generate import Sampling, generate
from lmjax.interop import LanguageModel, load
from lmjax.rlhf.scores import RewardModel, load_reward_model

Figure = tuple[float, float]  # a mean, and half the width of its 95% confidence interval


def measure(recipe: Recipe, runs: Mapping[str, str]) -> dict[str, dict[str, Figure]]:
    """Of each run, by name: true_reward; score, the reward model's; kl, nats an answer, from the tuned model; length,
    in tokens. One answer is drawn to each test question, at temperature 1, the same for all runs but for their weights.

    The pretrained model is merely prompted: it gets the tuned model's chat template.
    """
    reference, judge = load(recipe.path("tuned/best")), load_reward_model(recipe.path("judge"))
    asked = [turns[-1].text for _, turns in read_prompts(recipe.path("world/tests.jsonl"))]
    return {
        name: measured(load(recipe.path(run)), reference, judge, asked, recipe.seed)
        for name, run in tqdm(runs.items(), "stages", disable=None, delay=1)
    }


def measured(
    lm: LanguageModel, reference: LanguageModel, judge: RewardModel, asked: Sequence[str], seed: int
) -> dict[str, Figure]:
    tokenizer, template, eos_id = reference.tokenizer, reference.chat_template, reference.tokenizer.eos_id
    assert eos_id is not None
    prompts = [prompt_tokens(template, tokenizer, [Turn("user", one)]).tolist() for one in asked]
    new = generate(lm.config, lm.params, prompts, Sampling(ANSWER), eos_id=eos_id, seed=seed)
    texts = [tokenizer.decode(tokens).strip() for tokens in new]
    ends = [tokens + [eos_id] * (len(tokens) < ANSWER) for tokens in new]
    requests = [Request(*both) for both in zip(prompts, ends, strict=True)]
    own, theirs = ([one.log_probabilities.sum() for one in score(model, requests)] for model in (lm, reference))
    return {
        "true_reward": figure([world.true_reward(*both) for both in zip(asked, texts, strict=True)]),
        "score": figure([judge.score([Turn("user", one)], [text])[0] for one, text in zip(asked, texts, strict=True)]),
        "kl": figure(np.subtract(own, theirs)),
        "length": figure([len(tokens) for tokens in ends]),
    }


def figure(values: Sequence[float] | np.ndarray) -> Figure:
    """The mean, and 1.96 standard errors of it."""
    array = np.asarray(values, np.float64)
    return float(array.mean()), float(1.96 * array.std(ddof=1) / np.sqrt(len(array)))
