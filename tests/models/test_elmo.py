"""ELMo against the original's fixture and against a plain loop in torch; directions, carried states, files, the mix.

The loop's results are committed in tests/golden/elmo.npz and, marked `parity`, made anew of random models.
"""

import json
import os
from functools import partial

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.interop import LanguageModel, load
from lmjax.models import elmo, weights
from lmjax.models.architecture import abstract_params
from lmjax.models.mix import LayerMix
from tests.models.test_parity import GOLDEN, part
from tests.models.tiny import RECIPES, applier, forward, noisy, tiny

pytestmark = pytest.mark.core

HEADS, OBJECTIVE = RECIPES["elmo"]


@partial(jax.jit, static_argnums=0)
def run(cfg, params, **inputs):
    return elmo.Elmo(cfg, ()).apply({"params": params}, **inputs, collect=True)


def test_the_originals_fixture(shared_data):
    """Its thirty sentences, in both directions. The original read the sentences of a file one after the other and
    carried its states on."""
    folder = shared_data("elmo_fixture")
    lm, sentences = load(folder), json.loads((folder / "sentences.json").read_text())
    assert [len(file) for file in sentences] == [10, 10, 10]
    stored = [h5py.File(folder / f"lm_embeddings_{k}.hdf5") for k in range(3)]
    longest = max(len(sentence.split()) for file in sentences for sentence in file) + 2
    carry = elmo.empty_carry(lm.config, 3)
    for i in range(10):
        features = lm.encode([file[i] for file in sentences], multiple_of=longest)
        inputs = {"tokens": features["tokens"], "segment_ids": features["attention_mask"], "carry": carry}
        outputs = run(lm.config, lm.params, **inputs)
        carry = outputs["carry"]
        for row, file in enumerate(sentences):
            words = len(file[i].split())
            ours = np.split(np.asarray(outputs["hidden"][row, 1 : words + 1]), 2, axis=-1)
            np.testing.assert_allclose(np.stack(ours), stored[row][str(i)][:], rtol=0, atol=1e-5)


@pytest.fixture(params=["golden", pytest.param("live", marks=pytest.mark.parity)])
def record(request):
    if request.param == "golden":
        with np.load(GOLDEN / "elmo.npz", allow_pickle=False) as file:
            return dict(file)
    seed = int(os.environ.get("LMJAX_PARITY_SEED", int.from_bytes(os.urandom(3))))
    print(f"LMJAX_PARITY_SEED={seed} repeats this")
    return request.getfixturevalue("run_peer")(GOLDEN / "make_elmo.py", {}, str(seed))


def model_of(record):
    cfg = elmo.from_released(json.loads(str(record["options"])))
    abstract = abstract_params(elmo.ARCHITECTURE, cfg, HEADS)
    return cfg, weights.from_hf(elmo.weights(cfg), part(record, "weights/"), abstract, cfg.vocab_size)


def test_all_layers_are_those_of_the_loop(record):
    cfg, params = model_of(record)
    tokens = record["characters"].astype(np.int32)
    real = tokens[..., 0] > 0
    found = run(cfg, params, tokens=tokens, segment_ids=real.astype(np.int32))["hidden_states"]
    np.testing.assert_allclose(found[:, real], record["layers"][:, real], rtol=0, atol=1e-5)


def test_loss_gradients_and_carry_are_those_of_the_loop(record):
    cfg, params = model_of(record)
    batch = {k: v.astype(np.int32) for k, v in part(record, "batch/").items()} | {"carry": part(record, "carry/")}
    batch["loss_weights"] = np.full(batch["targets"].shape, 1 / batch["targets"].size, np.float32)
    assert (np.abs(record["after/cell"]) == cfg.cell_clip).any()
    assert (np.abs(record["after/output"]) == cfg.projection_clip).any()

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        outputs = applier(cfg, HEADS)(params, batch, None)
        return OBJECTIVE.loss(OBJECTIVE.terms(outputs, batch)), outputs["carry"]

    (value, carry), gradients = loss(params)
    np.testing.assert_allclose(value, record["loss"], rtol=0, atol=1e-5)
    for name, state in carry.items():
        np.testing.assert_allclose(state, record[f"after/{name}"], rtol=0, atol=1e-5)
    ours = weights.to_hf(elmo.weights(cfg), gradients, cfg.vocab_size)
    theirs = part(record, "gradients/")
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, rtol=0, atol=1e-5, err_msg=name)


CFG = tiny("elmo")
PARAMS = noisy(CFG, HEADS)


def words(rows, length, seed=0):
    return np.random.default_rng(seed).integers(1, 262, (rows, length, 50)).astype(np.int32)


def test_a_word_moves_only_what_comes_after_it_in_each_direction():
    tokens, at = words(2, 9), 4
    before = np.split(np.asarray(run(CFG, PARAMS, tokens=tokens)["hidden_states"]), 2, -1)
    tokens[:, at] = words(2, 1, seed=1)[:, 0]
    after = np.split(np.asarray(run(CFG, PARAMS, tokens=tokens)["hidden_states"]), 2, -1)
    forward_, backward = (np.abs(a - b).max((1, 3)) > 1e-5 for a, b in zip(after, before, strict=True))
    order = np.arange(9)
    for moved in (forward_[0], backward[0]):
        np.testing.assert_array_equal(moved, order == at)
    for layer in (1, 2):
        np.testing.assert_array_equal(forward_[layer], order >= at)
        np.testing.assert_array_equal(backward[layer], order <= at)


def test_stretches_with_carried_states_are_one_long_reading():
    """Forwards, and backwards where its words are given in its own order; also over padding at a stretch's end."""
    tokens, backward = words(2, 12), words(2, 12, seed=1)
    whole = run(CFG, PARAMS, tokens=tokens, backward_tokens=backward, carry=elmo.empty_carry(CFG, 2))
    carry, parts = elmo.empty_carry(CFG, 2), []
    for start in (0, 4, 8):
        cut = {"tokens": tokens[:, start : start + 4], "backward_tokens": backward[:, start : start + 4]}
        cut = {k: np.pad(v, ((0, 0), (0, 2), (0, 0))) for k, v in cut.items()}
        segments = np.broadcast_to(np.arange(6) < 4, (2, 6)).astype(np.int32)
        outputs = run(CFG, PARAMS, **cut, segment_ids=segments, carry=carry)
        carry = outputs["carry"]
        parts.append(np.asarray(outputs["hidden"])[:, :4])
    np.testing.assert_allclose(np.concatenate(parts, 1), whole["hidden"], atol=1e-5)
    for name, state in carry.items():
        np.testing.assert_allclose(state, whole["carry"][name], atol=1e-5)


def test_negatives_are_a_function_of_the_steps_key_and_only_in_training():
    """The train step folds seed, step and micro-batch into the key that it gives."""
    apply, batch = applier(CFG, HEADS), {"tokens": words(1, 2)}
    found = [jax.eval_shape(apply, PARAMS, batch, None), *(apply(PARAMS, batch, jax.random.key(k)) for k in (0, 0, 1))]
    assert "sampling_key" not in found[0]
    one, again, other = (jax.random.key_data(outputs["sampling_key"]).tolist() for outputs in found[1:])
    assert one == again != other


def test_words_given_backwards_are_those_read_from_the_end():
    tokens = words(2, 6)
    at_once = np.split(np.asarray(run(CFG, PARAMS, tokens=tokens)["hidden"]), 2, -1)
    given = run(CFG, PARAMS, tokens=tokens, backward_tokens=tokens[:, ::-1])["hidden"]
    forward_, backward = np.split(np.asarray(given), 2, -1)
    np.testing.assert_allclose(forward_, at_once[0], atol=1e-6)
    np.testing.assert_allclose(backward[:, ::-1], at_once[1], atol=1e-6)


@pytest.mark.parametrize("heads", [(), HEADS])
def test_released_files_return_as_they_went(heads, tmp_path):
    params = noisy(CFG, heads)
    LanguageModel(CFG, heads, params, None).save_hf(tmp_path / "elmo")
    assert sorted(p.name for p in (tmp_path / "elmo").iterdir()) == ["options.json", "weights.hdf5"]
    with h5py.File(tmp_path / "elmo/weights.hdf5") as file:
        assert file["RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/W_0"].shape == (64, 256)
        assert file["char_embed"].shape == (261, 4)
        assert ("softmax" in file) == bool(heads)
    again = load(tmp_path / "elmo")
    assert again.heads == heads
    tokens = words(2, 5)
    wanted = forward(CFG, heads)(params, tokens=tokens)
    for name, value in again(tokens=tokens).items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-6)


def test_what_is_no_release_is_one_line(tmp_path):
    (tmp_path / "options.json").write_text("{}")
    with pytest.raises(UserError, match=r"options\.json lacks 'char_cnn'"):
        load(tmp_path)
    (tmp_path / "options.json").write_text(json.dumps(elmo.to_released(CFG, ())))
    with pytest.raises(UserError, match=r"holds 0 files \*weights.hdf5"):
        load(tmp_path)
    (tmp_path / "weights.hdf5").write_bytes(b"no hdf5")
    with pytest.raises(UserError, match=r"weights\.hdf5 is damaged"):
        load(tmp_path)
    with h5py.File(tmp_path / "weights.hdf5", "w") as file:
        file["char_embed"] = np.zeros((261, 4))
    with pytest.raises(UserError, match="is missing"):
        load(tmp_path)


def test_initialisers():
    """Highway gates begin nearly shut, filters and characters uniform, everything else around 0 by its width."""
    init = jax.jit(lambda key: elmo.Elmo(CFG, HEADS).init(key, np.zeros((1, 2), np.int32))["params"])
    params = init(jax.random.key(0))
    assert (params["cnn"]["highway_0_carry"]["bias"] == -2).all()
    assert 0.9 < np.abs(params["cnn"]["characters"]["embedding"]).max() <= 1
    assert 0.04 < np.abs(params["cnn"]["convolution_2"]["kernel"]).max() <= 0.05
    assert np.std(params["cnn"]["highway_0_transform"]["kernel"]) == pytest.approx(32**-0.5, rel=0.1)
    assert np.std(params["bilm"]["embedding"][: CFG.vocab_size]) == pytest.approx(32**-0.5, rel=0.1)


# The mix of layers.


def test_the_mix_is_the_papers_sum():
    h = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)
    weight, gamma = np.array([0.3, -1.0, 2.0], np.float32), np.float32(1.7)
    shares = np.exp(weight) / np.exp(weight).sum()
    found = LayerMix().apply({"params": {"weight": weight, "gamma": gamma}}, h)
    np.testing.assert_allclose(found, gamma * np.tensordot(shares, h, 1), atol=1e-5)
    first = LayerMix().init_with_output(jax.random.key(0), h)[0]
    np.testing.assert_allclose(first, h.mean(0), atol=1e-6)
    plain = LayerMix(layers=(0, -1), normalise=False)
    found = plain.apply({"params": {"alpha": jnp.array([2.0, -3.0])}}, h)
    np.testing.assert_allclose(found, 2 * h[0] - 3 * h[2], atol=1e-5)


def test_the_mix_may_normalise_each_layer_over_its_real_words():
    h = np.random.default_rng(0).normal(3, 2, size=(2, 2, 4, 5)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    mix = LayerMix(layers=(1,), layer_norm=True)
    found = np.asarray(mix.init_with_output(jax.random.key(0), h, mask)[0])[mask == 1]
    assert found.mean() == pytest.approx(0, abs=1e-5)
    assert found.std() == pytest.approx(1, abs=1e-5)
    wanted = (h[1][mask == 1] - h[1][mask == 1].mean()) / h[1][mask == 1].std()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
