"""Whole runs: resuming, what is refused, networks for values, the run's files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.data.chat_template import Turn, named_template, prompt_tokens
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.errors import UserError
from lmjax.interop import LanguageModel, load
from lmjax.parallel import MeshConfig, make_mesh
from lmjax.report import report
from lmjax.rlhf.advantages import KlConfig, ShapingConfig
from lmjax.rlhf.config import PretrainingConfig, resolve
from lmjax.rlhf.ppo import align, begun, scored, train_ppo
from lmjax.rlhf.program import assemble_ppo
from lmjax.rlhf.reward_model import reward_model
from lmjax.rlhf.rollout import RolloutConfig, roll_out
from lmjax.rlhf.scores import load_reward_model
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.log import LogConfig
from lmjax.train.optim import OptimConfig
from lmjax.verify import fingerprint
from tests.models.tiny import noisy, tiny
from tests.rlhf import mdp

DIALOGUE = "\n\nHuman: ba\n\nAssistant: be\n\nHuman: bi"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    mdp.write_world(root)
    return root


@pytest.fixture(autouse=True, scope="module")
def one_device():
    """What the count of devices changes is tested elsewhere."""
    with mdp.on_devices(1):
        yield


def short(world: Path, name: str, **changes: Any) -> Any:
    cfg = mdp.config(world, directory=str(world / name), iterations=6, batch_size=16, epochs=2, minibatches=2)
    return replace(
        cfg, checkpoint=CheckpointConfig(every=2, keep=2), log=LogConfig(every=1, tensorboard=False), **changes
    )


def lines(directory: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time"} for line in found]


def test_a_resumed_run_draws_the_same_answers_again(world):
    """Bit for bit, though no answer is stored."""
    adaptive = {"kl": replace(mdp.config(world).kl, target=0.01, horizon=100.0)}
    train_ppo(short(world, "untouched", **adaptive), mdp.reward)
    train_ppo(short(world, "resumed", **adaptive, stop_at=3), mdp.reward)
    assert not (world / "resumed" / "samples.json").exists()
    train_ppo(short(world, "resumed", **adaptive), mdp.reward)
    assert fingerprint(world / "untouched") == fingerprint(world / "resumed")
    assert lines(world / "untouched") == lines(world / "resumed")
    assert len({line["kl_coefficient"] for line in lines(world / "resumed")}) == 6
    with pytest.raises(UserError, match="clip"):
        train_ppo(short(world, "resumed", clip=0.1), mdp.reward)
    for file, path in ((world / "prompts.jsonl", "prompts"), (world / "reference/config.json", "init_from")):
        before = file.read_text()
        file.write_text(before.replace('""', '"ba"') if path == "prompts" else f"{before} ")
        with pytest.raises(UserError, match=rf"run of another config: digests.{path} \('\w+' -> '\w+'\); choose"):
            train_ppo(short(world, "resumed", **adaptive), mdp.reward)
        file.write_text(before)


def test_some_bad_updates_end_no_run_and_ten_iterations_of_them_do(world, monkeypatch):
    """One answer's score is not a number: the minibatches with it are skipped, the others are not."""
    for module in ("ppo", "loop"):
        monkeypatch.setattr(f"lmjax.{'rlhf' if module == 'ppo' else 'train'}.{module}.SKIPPED_IN_A_ROW", 2)
    apart = {"stop_at": 3, "shaping": ShapingConfig(missing_eos="none", whiten_advantages=False)}

    def bad(tokens, is_response, rows):
        return jnp.where(jnp.arange(len(tokens)) < rows, jnp.nan, mdp.reward(tokens, is_response))

    train_ppo(short(world, "one_bad", **apart), lambda *text: bad(*text, 1))
    assert [line["skipped"] for line in lines(world / "one_bad")] == [0.5] * 3
    with pytest.raises(UserError, match=r"nothing; lower optim.peak_lr, or mend the reward: .* were not finite$"):
        train_ppo(short(world, "all_bad", **apart), lambda *text: bad(*text, 16))


def test_what_a_run_leaves(world):
    """Its scores are normalised by the reference's own, whatever gain and bias the reward has."""
    directory, shaping = world / "left", ShapingConfig(missing_eos="none", normalise_scores=True)
    train_ppo(short(world, "left", shaping=shaping), lambda *text: 50 * (mdp.reward(*text) + 2))
    last = lines(directory)[-1]
    names = (
        "score",
        "reward",
        "kl",
        "entropy",
        "clip_fraction",
        "approximate_kl",
        "value",
        "response_length",
        "eos_share",
    )
    assert all(isinstance(last[name], float) for name in names)
    first = json.loads((directory / "metrics.jsonl").read_text().splitlines()[0])
    drawn = first["time"]["tokens_per_second"] * first["time"]["rollout_seconds"]
    assert drawn == pytest.approx(16 * first["response_length"])
    assert first["response_length"] < mdp.STEPS
    assert abs(first["score"]) < 1.5
    for line in lines(directory):  # answers are drawn, in six iterations, from the policy that is updated
        assert line["first_log_ratio"] == 0
        assert line["sampler_difference"] < 1e-5
    (samples,) = json.loads((directory / "samples.json").read_text())
    assert len(samples["rows"][0]) == 3
    page = report(directory).read_text()
    assert "score against kl" in page.lower()
    assert f"Step 6: score {last['score']:.3g}, KL {last['kl']:.3g}, EOS share {last['eos_share']:.3g}." in page
    lm = load(directory)
    assert isinstance(lm, LanguageModel)
    assert lm.tokenizer.eos_id == mdp.EOS


@pytest.fixture(scope="module")
def halved(world) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Two iterations in bfloat16, of which the first has the rate 0: their log, and the texts of each."""
    drawn = []

    def seen(tokens, is_response):
        drawn.append(np.asarray(tokens))
        return mdp.reward(tokens, is_response)

    optim = OptimConfig(peak_lr=2e-3, weight_decay=0.0, warmup=1, decay="linear_from_zero")
    cfg = short(world, "halved", dtype="bfloat16", frozen_dtype="bfloat16", optim=optim, stop_at=2)
    train_ppo(cfg, seen)
    return lines(world / "halved"), drawn


def test_an_iteration_in_bfloat16(halved):
    """The policy begins where its reference stands, but for rounding: the reference's parameters are bfloat16 too."""
    for line in halved[0]:
        figures = [figure for name in line if name != "split" for figure in jax.tree.leaves(line[name])]
        assert np.all(np.isfinite(figures))
        assert line["skipped"] == 0
        assert line["first_log_ratio"] == 0
        assert line["sampler_difference"] < 0.05
        assert abs(line["kl"]) < 0.02
    assert [line["learning_rate"] > 0 for line in halved[0]] == [False, True]


def test_the_loop_draws_anew_at_each_iteration(halved):
    """From the same policy, to the same prompt."""
    assert halved[0][0]["learning_rate"] == 0
    first, second = halved[1]
    assert not np.array_equal(first, second)


def test_the_loop_goes_through_the_prompts_in_passes(world):
    """Of four prompts two iterations have half each, and not always the same halves."""
    (world / "four.jsonl").write_text("".join(f'{{"prompt": "{word}"}}\n' for word in mdp.WORDS[2:]))
    asked = []

    def seen(tokens, is_response):
        asked.append(np.asarray(tokens)[:, 0].tolist())
        return mdp.reward(tokens, is_response)

    cfg = short(world, "passes", prompts=str(world / "four.jsonl"))
    train_ppo(replace(cfg, batch_size=2, minibatches=1, epochs=1, iterations=8), seen)
    passes = [first + second for first, second in zip(asked[0:8:2], asked[1:8:2], strict=True)]
    assert [sorted(one) for one in passes] == [[2, 3, 4, 5]] * 4
    assert len({tuple(one) for one in passes}) > 1


def test_what_is_drawn_follows_the_log_probabilities(world):
    """Frequencies of whole answers against exp of what the loss takes for their log-probability, at the temperature."""
    draws, params = 20_000, noisy(mdp.MODEL, ("clm",))
    prompt = {"tokens": jnp.zeros((draws, 1), jnp.int32), "segment_ids": jnp.ones((draws, 1), jnp.int32)}
    cfg = RolloutConfig(1, mdp.STEPS, mdp.TEMPERATURE)
    rows = roll_out(mdp.MODEL, cfg, mdp.EOS, mdp.EOS, params, prompt, jax.random.key(1))
    number = {tuple(answer): i for i, answer in enumerate(mdp.every_answer().tolist())}
    counts = np.bincount([number[tuple(row)] for row in np.asarray(rows["targets"]).tolist()], minlength=len(number))
    expected = draws * np.exp(mdp.log_probs(params))
    often = expected >= 5
    chi2 = ((counts - expected)[often] ** 2 / expected[often]).sum()
    chi2 += (counts[~often].sum() - expected[~often].sum()) ** 2 / expected[~often].sum()
    freedom = often.sum()
    assert freedom > 50
    assert chi2 < freedom + 4 * np.sqrt(2 * freedom) + 8


def test_a_reward_model_scores_and_lends_its_weights_to_the_values(world, capsys):
    mdp.write_reward_model(world, world / "judge")
    cfg = replace(short(world, "judged", reward_model=str(world / "judge"), value="network"), dtype="bfloat16")
    run, judge = resolve(cfg, False), load_reward_model(world / "judge/best")
    assert run.critic
    assert run.critic.dtype == "bfloat16"
    program = assemble_ppo(run.cfg, run.model, run.critic, run.eos_id, run.pad_id)
    with jax.set_mesh(program.mesh):
        state = begun(program, run)
    assert "drawn from the seed" not in capsys.readouterr().err  # none of it stays as it was drawn
    jax.tree.map(np.testing.assert_array_equal, state.params["value_network"], judge.params)
    reference = load(world / "reference").params
    jax.tree.map(np.testing.assert_array_equal, {k: state.params[k] for k in reference}, reference)
    score = reward_model(str(world / "judge"), "float32", make_mesh(MeshConfig()))
    tokens = jnp.array([[0, 2, 3, 0, 1, 1], [0, 2, 4, 5, 3, 2]])
    is_response = jnp.array([[False, True, True, True, False, False], [False] + [True] * 5])
    found = score(tokens, is_response)
    np.testing.assert_allclose(
        found, score(jnp.where(is_response | (jnp.arange(6) == 0)[None], tokens, 4), is_response)
    )
    hidden = load(world / "reference")(tokens=np.asarray(tokens), segment_ids=np.array([[1, 1, 1, 1, 0, 0], [1] * 6]))
    expected = [hidden["hidden"][0, 3].sum() * 0.1 + 0.877, hidden["hidden"][1, 5].sum() * 0.1 + 0.877]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_frozen_reward_model_keeps_its_head(world, monkeypatch):
    """Its shifted bias, rounded to bfloat16, would move the scores' zero."""
    mdp.write_reward_model(world, world / "kept")
    monkeypatch.setattr("lmjax.rlhf.reward_model.scorer", lambda cfg, params: params)
    params = reward_model(str(world / "kept"), "bfloat16", make_mesh(MeshConfig()))
    assert params["word_embeddings"]["embedding"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(params["reward"]["bias"], np.float32(1) - np.float32(0.123))


def test_long_prompts_are_dropped_where_the_config_says_so(world, capsys):
    cfg, some, long = mdp.config(world), world / "some.jsonl", world / "all_long.jsonl"
    some.write_text('{"prompt": "ba be bi"}\n{"prompt": "ba"}\n{"prompt": "be bi"}\n')
    found = resolve(replace(cfg, prompts=str(some), long_prompts="drop"), True)
    assert found.prompts["tokens"].shape[0] == 1
    assert "some.jsonl: 2 of 3 prompts left out, longer than 1 tokens" in capsys.readouterr().out
    long.write_text('{"prompt": "ba be bi"}\n')
    refused(replace(cfg, prompts=str(long), long_prompts="drop"), "all prompts are longer than the 1 tokens of rollout")


def refused(cfg: Any, complaint: str, with_function: bool = True) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        resolve(cfg, with_function)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_is_refused_in_one_line(world):
    cfg = mdp.config(world)
    long, bad, empty, talk = (world / f"{name}.jsonl" for name in ("long", "bad", "empty", "talk"))
    talk.write_text(json.dumps({"chosen": f"{DIALOGUE}\n\nAssistant: bo"}))
    long.write_text('{"prompt": "ba"}\n{"prompt": "ba be bi"}\n')
    bad.write_text('{"prompt": "ba"}\n{"text": "ba"}\n')
    empty.write_text("")
    refused(replace(cfg, prompts=str(long)), "long.jsonl, line 2: the prompt has 3 tokens, rollout.prompt_length is 1")
    refused(replace(cfg, prompts=str(bad)), 'line 2: no text "prompt"')
    refused(replace(cfg, prompts=str(empty)), "holds no prompt")
    refused(replace(cfg, prompts="nowhere"), "cannot read nowhere")
    refused(replace(cfg, prompts=str(talk)), "talk.jsonl, line 1: a conversation, and the model has no chat template")
    refused(replace(cfg, rollout=RolloutConfig(4, 5)), "reference has 8 positions, a prompt and its answer 9 tokens")
    refused(replace(cfg, rollout=RolloutConfig(1, 5, pad_id=mdp.EOS)), "padding and end token are both 0")
    refused(replace(cfg, rollout=RolloutConfig(1, 5, pad_id=6)), "pad_id 6 is not in the vocabulary")
    refused(replace(cfg, init_from=""), "no model to begin with")
    refused(cfg, "one reward is needed", False)
    refused(replace(cfg, reward_model="somewhere"), "one reward is needed")
    refused(replace(cfg, value="network"), "value 'network'")
    bert = tiny("bert", vocab_size=6)
    LanguageModel(bert, ("mlm",), noisy(bert, ("mlm",)), load(world / "reference").tokenizer).save_hf(world / "bert")
    refused(replace(cfg, init_from=str(world / "bert")), r"bert is no causal language model \(its heads: .*mlm")
    mdp.write_reward_model(world, world / "scores")
    refused(replace(cfg, init_from=str(world / "scores/best")), r"scores/best is no .*\(its heads: none\); take a GPT")


def test_a_reward_of_another_tokenizer_is_refused(world):
    from tests.tiny_runs import tiny_tokenizer

    tokenizer = tiny_tokenizer("byte_bpe")
    other = tiny("gpt2", vocab_size=tokenizer.vocab_size)
    LanguageModel(other, ("clm",), noisy(other, ("clm",)), tokenizer).save_hf(world / "other")
    refused(replace(mdp.config(world), reward_model=str(world / "other")), "have different tokenizers", False)


def test_a_reward_model_that_does_not_fit_the_policy_is_refused(world):
    cfg = mdp.config(world)
    mdp.write_reward_model(world, world / "templated", template="plain")
    refused(replace(cfg, reward_model=str(world / "templated")), "have different chat templates; tune both", False)
    mdp.write_reward_model(world, world / "short", max_position_embeddings=5)
    refused(replace(cfg, reward_model=str(world / "short")), "short has 5 positions, a prompt and its answer 6", False)
    refused(replace(cfg, reward_model=str(world / "reference")), "reference is no reward model", False)


def test_dialogues_are_prompts_of_a_tuned_model(world):
    tuned, model = world / "tuned", replace(mdp.MODEL, max_position_embeddings=64)
    tokenizer = load(world / "reference").tokenizer.with_chat_template(named_template("plain"))
    LanguageModel(model, ("clm",), noisy(model, ("clm",)), tokenizer).save_hf(tuned)
    (world / "hh.jsonl").write_text(json.dumps({"chosen": f"{DIALOGUE}\n\nAssistant: bo"}))
    cfg = mdp.config(world, init_from=str(tuned), prompts=str(world / "hh.jsonl"), rollout=RolloutConfig(32, 8))
    turns = [Turn("user", "ba"), Turn("assistant", "be"), Turn("user", "bi")]
    tokens = resolve(cfg, True).prompts["tokens"][0]
    expected = prompt_tokens(named_template("plain"), tokenizer, turns)
    np.testing.assert_array_equal(tokens[-len(expected) :], expected)


def test_text_of_another_tokenizer_is_refused(world):
    other = mdp.text(world, TokenizerConfig("byte_bpe", 300))
    cfg = short(world, "ptx", pretraining=PretrainingConfig(0.1, (other,), rows=1, length=8))
    with pytest.raises(UserError, match=r"store_byte_bpe is of another tokenizer than .*reference; make another store"):
        align(cfg, mdp.reward)


def test_text_mixes_in_where_the_tables_have_rows_that_the_tokenizer_does_not_use(world):
    """As tuning leaves those of a released GPT-2 that was padded."""
    padded = replace(mdp.MODEL, vocab_size=mdp.MODEL.vocab_size + 2)
    tokenizer = load(world / "reference").tokenizer
    LanguageModel(padded, ("clm",), noisy(padded, ("clm",)), tokenizer).save_hf(world / "padded")
    mixed = PretrainingConfig(0.1, (mdp.text(world),), rows=1, length=8)
    cfg = short(world, "padded_ptx", init_from=str(world / "padded"), pretraining=mixed)
    align(replace(cfg, iterations=1), mdp.reward)
    assert np.isfinite(lines(world / "padded_ptx")[-1]["pretraining"])


def test_scores_of_another_shape_are_refused():
    tokens, is_response = jnp.zeros((16, 6), jnp.int32), jnp.ones((16, 6), bool)
    with pytest.raises(UserError, match=r"gave scores of shape \(16, 1\) to 16 answers, not one number each"):
        scored(lambda *text: mdp.reward(*text)[:, None], tokens, is_response)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"batch_size": 10, "minibatches": 4}, "batch_size"),
        ({"epochs": 0}, "epochs"),
        ({"clip": 0.0}, "clip 0.0"),
        ({"stop_at_kl": -1.0}, "stop_at_kl -1.0"),
        ({"optim": OptimConfig(unit="tokens")}, "optim.unit tokens: the rate goes by iterations"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"rollout": RolloutConfig(1, 5, rows=100)}, "batch_size 256 is not divisible by rollout.rows 100"),
        ({"batch_size": 512, "kl": KlConfig(0.1, 6.0, 100)}, "kl.horizon 100 is so short .* raise it above 102.4"),
    ],
)
def test_impossible_updates(world, changes, complaint):
    with pytest.raises(UserError, match=complaint):
        replace(mdp.config(world), **changes)
    with pytest.raises(UserError, match="rows 0"):
        PretrainingConfig(1.0, rows=0)
