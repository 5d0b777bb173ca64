"""What only GPT-1 has: the details in which OpenAI's code and Hugging Face's differ, and one spread for all weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax
from lmjax.errors import UserError
from lmjax.models import gpt, gpt1
from lmjax.models.architecture import init_params
from tests.models.tiny import VOCAB, applier, forward, noisy, tiny

pytestmark = pytest.mark.core

HEADS = ("clm",)


def _embedded(dropout_of, tokens):
    """Embedded tokens [B, L, D] and the output's table, with dropout at a half, of tables that hold ones (words) and
    tens (positions)."""
    cfg = tiny("openai-gpt", embedding_dropout=0.5, dropout_of=dropout_of)
    params = jax.tree.map(np.zeros_like, noisy(cfg, HEADS))
    params["word_embeddings"]["embedding"] += 1
    params["positions"]["position"]["embedding"] += 10
    module = gpt1.Gpt1(cfg, HEADS)

    @jax.jit
    def run():
        return module.apply({"params": params}, tokens, train=True, collect=True, rngs={"dropout": jax.random.key(0)})

    outputs = run()
    return np.asarray(outputs["hidden_states"][0]), np.asarray(outputs["logits"].table_VD)


def test_dropout_of_the_tables_is_the_same_wherever_a_row_is_read():
    tokens = np.array([[3, 4, 3, 5], [6, 4, 3, 7]], np.int32)
    x, table = _embedded("tables", tokens)
    assert set(np.unique(x)) == {0, 2, 20, 22}
    assert set(np.unique(table[:VOCAB])) == {0, 2}
    np.testing.assert_array_equal(x % 20, table[tokens])  # words, and the output sees the same
    np.testing.assert_array_equal(x[0] // 20, x[1] // 20)  # positions


def test_dropout_of_the_sum_is_drawn_for_each_token():
    x, table = _embedded("sum", np.full((2, 4), 3, np.int32))
    assert set(np.unique(x)) == {0, 22}
    assert (table[:VOCAB] == 1).all()
    assert 0.3 < (x[0] != x[1]).mean() < 0.7


def test_the_softmax_over_positions_too():
    """OpenAI's one table: tokens, then positions. Decoding draws tokens alone."""
    cfg, tokens = tiny("openai-gpt"), np.arange(8, dtype=np.int32)[None]
    both = tiny("openai-gpt", output_rows="tokens_and_positions")
    params = noisy(cfg, HEADS)
    plain, whole = (forward(c, HEADS)(params, tokens=tokens) for c in (cfg, both))
    assert whole["logits"].shape == (1, 8, VOCAB + 16)
    np.testing.assert_allclose(whole["logits"][..., :VOCAB], plain["logits"], atol=1e-5)
    of_positions = np.asarray(whole["hidden"]) @ params["positions"]["position"]["embedding"].T
    np.testing.assert_allclose(whole["logits"][..., VOCAB:], of_positions, atol=1e-4)
    apply = jax.jit(applier(both, HEADS))
    statistics = apply(params, {"tokens": tokens}, None)["logits"].statistics(jnp.asarray(tokens))
    np.testing.assert_allclose(statistics.log_normalizer, jax.nn.logsumexp(whole["logits"], axis=-1), rtol=1e-5)
    cached = forward(both, HEADS)(params, tokens=tokens, cache=gpt.empty_cache(both, 1, 8))
    assert cached["logits"].shape == (1, 8, VOCAB)
    assert gpt1.flops(both, 8, HEADS, 8) - gpt1.flops(cfg, 8, HEADS, 8) == 2 * 8 * 32 * 16


def test_every_weight_starts_alike():
    init = jax.jit(lambda key: init_params(gpt1.ARCHITECTURE, tiny("openai-gpt"), HEADS, key))
    params = init(jax.random.key(0, impl="rbg"))
    words, positions = params["word_embeddings"]["embedding"][:VOCAB], params["positions"]["position"]["embedding"]
    layers = params["layers"]
    for values in (words, positions, layers["attention"]["out"]["kernel"], layers["mlp"]["down"]["kernel"]):
        assert np.std(values) == pytest.approx(0.02, rel=0.15)
    assert "final_norm" not in params


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "gelu"}, "means the tanh form"),
        ({"intermediate_size": 64}, "has intermediate_size 128 only"),
        ({"output_rows": "tokens_and_positions"}, "has output_rows tokens only"),
    ],
)
def test_what_hugging_face_lacks_is_not_converted(changes, message):
    with pytest.raises(UserError, match=f"{message}.*cannot be converted"):
        gpt1.to_hf(tiny("openai-gpt", **changes), HEADS)


@pytest.fixture
def released(tmp_path):
    """Random parameters in OpenAI's files: positions, tokens, and the layers' arrays in their code's order."""
    cfg = tiny("openai-gpt", hidden_size=128, num_attention_heads=2, intermediate_size=512, vocab_size=30)
    params = noisy(cfg, HEADS)
    layers, vectors = params["layers"], ("query", "key", "value")
    arrays = [params["positions"]["position"]["embedding"], params["word_embeddings"]["embedding"][:30]]
    for i in range(2):
        qkv = [layers["attention"][name] for name in vectors]
        arrays.append(np.concatenate([x["kernel"][i].reshape(128, 128) for x in qkv], -1)[None])
        arrays.append(np.concatenate([x["bias"][i].reshape(128) for x in qkv]))
        out, up, down = layers["attention"]["out"], layers["mlp"]["up"], layers["mlp"]["down"]
        arrays += [out["kernel"][i].reshape(1, 128, 128), out["bias"][i]]
        arrays += [layers["attention_norm"][name][i] for name in ("scale", "bias")]
        for x in (up, down):
            arrays += [x["kernel"][i][None], x["bias"][i]]
        arrays += [layers["mlp_norm"][name][i] for name in ("scale", "bias")]
    (tmp_path / "params_shapes.json").write_text(json.dumps([array.shape for array in arrays]))
    flat = np.concatenate([array.ravel() for array in arrays])
    for number, part in enumerate(np.array_split(flat, 12)):  # of names that sort otherwise as text
        np.save(tmp_path / f"params_{number}.npy", part, allow_pickle=False)
    return tmp_path, cfg, params


def test_openais_release_is_read(released):
    folder, cfg, params = released
    lm = lmjax.load(folder)
    assert (lm.config.hidden_size, lm.config.num_attention_heads, lm.config.vocab_size) == (128, 2, 30)
    tokens = np.arange(8, dtype=np.int32)[None]
    wanted = forward(cfg, HEADS)(params, tokens=tokens)["logits"]
    np.testing.assert_allclose(lm(tokens=tokens)["logits"], wanted, atol=1e-5)


def test_a_damaged_release_is_one_line(released):
    folder, *_ = released
    (folder / "params_3.npy").rename(folder / "elsewhere.npy")
    with pytest.raises(UserError, match=r"params_shapes.json: 26 arrays of \d+ values; found \d+ values"):
        lmjax.load(folder)
    np.save(folder / "params_3.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UserError, match=r"params_\*.npy .*missing or damaged"):
        lmjax.load(folder)


def test_what_cannot_be_read_or_built_is_one_line():
    with pytest.raises(UserError, match="afn 'swish' is none of gelu, relu"):
        gpt1.from_hf({"afn": "swish"})
    with pytest.raises(UserError, match="needs learned positions"):
        tiny("openai-gpt", output_rows="tokens_and_positions", position_embedding="sinusoidal")
