"""A reward model as transformers' sequence classifier."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from lmjax.data.chat_template import named_template
from lmjax.errors import UserError
from lmjax.rlhf.scores import RewardModel, abstract_reward_params, reward_function
from tests.models.tiny import tiny
from tests.tiny_runs import tiny_tokenizer

PEER = Path(__file__).parents[1] / "golden/reward_model.py"


def reward_model(family: str) -> RewardModel:
    """With random weights; its head has a bias."""
    tokenizer = tiny_tokenizer("byte_bpe").with_chat_template(named_template("plain"))
    cfg = tiny(family, vocab_size=tokenizer.vocab_size)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), abstract_reward_params(cfg))
    return RewardModel(cfg, params, tokenizer, 0.5)


@pytest.mark.parity
@pytest.mark.parametrize("padded", [False, True])
def test_transformers_gives_the_same_scores(padded: bool, run_peer, tmp_path: Path) -> None:
    model, rng = reward_model("gpt2"), np.random.default_rng(1)
    assert abs(float(model.params["reward"]["bias"][0])) > 0.1
    model.save_hf(tmp_path / "hf")
    config = tmp_path / "hf/config.json"
    if padded:  # as who has added a token to pad with would set it
        config.write_text(json.dumps(json.loads(config.read_text()) | {"pad_token_id": 0}))
    lengths = np.array([7, 12, 3])
    tokens = rng.integers(1, model.config.vocab_size, (3, 12)).astype(np.int32) * (np.arange(12) < lengths[:, None])
    ours = np.asarray(jax.jit(reward_function(model.config))(model.params, tokens.astype(np.int32), lengths - 1))
    found = run_peer(PEER, {"tokens": tokens, "lengths": lengths}, str(tmp_path / "hf"))
    assert set(found) == ({"one_by_one", "at_once"} if padded else {"one_by_one"})
    for name, theirs in found.items():
        np.testing.assert_allclose(theirs, ours, atol=2e-5, err_msg=name)


def test_the_directory_is_new_and_carries_the_bias(tmp_path: Path) -> None:
    model = reward_model("gpt2")
    model.save_hf(tmp_path / "hf")
    content = json.loads((tmp_path / "hf/config.json").read_text())
    assert (content["architectures"], content["id2label"]) == (["GPT2ForSequenceClassification"], {"0": "LABEL_0"})
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in (tmp_path / "hf").iterdir()}
    with pytest.raises(UserError, match="hf exists already"):
        model.save_hf(tmp_path / "hf")
    with pytest.raises(UserError, match="ends without a normalisation of its own"):
        reward_model("openai-gpt").save_hf(tmp_path / "gpt1")
    assert not (tmp_path / "gpt1").exists()
