"""The recipes on preferences and against rewards: each is loaded, the commands that its docstring names are ones that
parse, and one step begins with what the one before it leaves."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lmjax.config import load_config, override
from lmjax.data.chat_template import named_template, prompt_tokens
from lmjax.data.preferences import read_prompts
from lmjax.data.tokenizers import load_tokenizer
from lmjax.finetuning import FinetuneConfig
from lmjax.models import preset
from lmjax.rlhf.config import PpoConfig
from lmjax.rlhf.program import assemble_ppo
from lmjax.tasks import make_task

ROOT = Path(__file__).parents[2]


def chatgpt(name: str, declared: type = FinetuneConfig) -> Any:
    return load_config(str(ROOT / f"configs/chatgpt/{name}.py"), declared)


@pytest.mark.parametrize(
    ("sft", "reward", "ppo"),
    [
        ("sft", "reward", "ppo"),
        ("tldr_sft", "tldr_reward", "tldr_ppo"),
        ("tiny_sft", "tiny_reward", "tiny_ppo"),
    ],
)
def test_a_recipe_of_ppo_begins_with_what_the_others_leave(sft: str, reward: str, ppo: str) -> None:
    cfg, supervised, judge = chatgpt(ppo, PpoConfig), chatgpt(sft), chatgpt(reward)
    assert cfg.init_from == f"{supervised.directory}/best"
    assert cfg.reward_model == judge.directory
    assert not judge.task.template  # but the supervised model's own
    assert all(text.data.tokenizer.path == f"{supervised.directory}/tokenizer" for text in cfg.pretraining.data)
    said = (ROOT / f"configs/chatgpt/{ppo}.py").read_text().split('"""')[1]
    assert f"python run_finetune.py configs/chatgpt/{ppo}.py\n" in said
    for options in re.findall(r"(--[^;,)]*)", said):
        override(cfg, options.split(), "")


@pytest.mark.parametrize(
    ("name", "length", "prompts"),
    [("ppo", 890, "hh_rlhf_harmless/train.jsonl.gz"), ("tldr_ppo", 519, "tldr_judged/train.csv")],
)
def test_the_real_prompts_fit(
    name: str, length: int, prompts: str, shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    """By GPT-2's own vocabulary and the template of its supervised tuning."""
    cfg, template = chatgpt(name, PpoConfig), named_template(chatgpt(name.replace("ppo", "sft")).task.template)
    assert cfg.prompts.endswith(prompts)
    for file in ("encoder.json", "vocab.bpe"):
        shutil.copy(shared_data(f"tokenizers/gpt2-{file}"), tmp_path / file)
    tokenizer = load_tokenizer(tmp_path)
    sizes = [len(prompt_tokens(template, tokenizer, turns)) for _, turns in read_prompts(shared_data(prompts))]
    assert max(sizes) == length <= cfg.rollout.prompt_length


@pytest.mark.parametrize("name", ["ppo", "tldr_ppo"])
def test_the_phases_of_a_real_recipe_fit_together(name: str) -> None:
    """Traced, not run, on GPT-2 small but for its number of layers: each phase takes what the one before it gives."""
    cfg = chatgpt(name, PpoConfig)
    model: Any = replace(preset("gpt2"), dtype=cfg.dtype, num_hidden_layers=2)
    program = assemble_ppo(cfg, model, model, 50256, 0)
    state, shape = program.abstract_state, jax.ShapeDtypeStruct
    reference = {part: state.params[part] for part in program.reference}
    prompts = dict.fromkeys(("tokens", "segment_ids"), shape((cfg.batch_size, cfg.rollout.prompt_length), np.int32))
    rows = (cfg.minibatches * cfg.micro_batches, cfg.pretraining.rows * cfg.micro_batch, cfg.pretraining.length)
    kinds = {"tokens": np.int32, "targets": np.int32, "loss_weights": np.float32} if cfg.pretraining.coefficient else {}
    text = {f"text_{feature}": shape(rows, dtype) for feature, dtype in kinds.items()}
    with jax.set_mesh(program.mesh):
        drawn = jax.eval_shape(program.roll_out, state.params, state.key, state.step, prompts)
        scores = shape((cfg.batch_size,), np.float32)
        experience, figures = jax.eval_shape(program.score, state, reference, drawn, scores)
        after, metrics = jax.eval_shape(program.update, state, experience, text, figures["kl"])
    assert drawn["targets"].shape == (cfg.batch_size, cfg.rollout.response_length)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert ("pretraining" in metrics) == bool(text)


@pytest.mark.parametrize("name", ["reward", "dpo", "tldr_reward", "tiny_reward", "tiny_dpo"])
def test_a_recipe_is_loaded_and_its_commands_parse(name: str) -> None:
    path = ROOT / f"configs/chatgpt/{name}.py"
    said, recipe = path.read_text().split('"""')[1], load_config(str(path), FinetuneConfig)
    ((config, arguments),) = re.findall(r"python run_finetune\.py (\S+) ?(.*)", said)
    assert config == f"configs/chatgpt/{name}.py"
    assert override(recipe, arguments.split(), "").init_from
    for more in re.findall(r"(?:files|own): (--.*?)\)", said):
        override(recipe, more.split(), "")
    assert make_task(recipe.task).supervised
