"""Which leaves a fresh state takes over from a trained model, which stay as drawn, and what is said about it."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.interop import LanguageModel
from lmjax.models import MODELS
from lmjax.models.architecture import init_params
from lmjax.models.task_layers import TaskLayer
from lmjax.models.weights import flatten
from lmjax.train.saved import digest_of_saved
from lmjax.train.warm_start import warm_started
from lmjax.types import TrainState
from tests.models.tiny import noisy, tiny
from tests.tiny_runs import write_run

ROBERTA = MODELS["roberta"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warm") / "roberta"
    cfg = tiny("roberta")
    LanguageModel(cfg, ("mlm",), noisy(cfg, ("mlm",)), None).save_hf(folder)
    return folder


def fresh(**changes: object) -> TrainState:
    draw = partial(init_params, ROBERTA, tiny("roberta", **changes), ("pooler",))
    params = jax.jit(draw)(jax.random.key(1))
    return TrainState(jnp.zeros((), jnp.int32), params, {}, jax.random.key(0))


def test_another_model_has_another_digest(trained: Path, tmp_path: Path) -> None:
    """A run's is that of its newest checkpoint."""
    write_run("gpt2", tmp_path / "run")
    of_run, newest, best, released = map(
        digest_of_saved, (tmp_path / "run", tmp_path / "run/checkpoints/2", tmp_path / "run/best", trained)
    )
    assert of_run == newest == digest_of_saved(tmp_path / "run")
    assert len({newest, best, released}) == 3


def test_longer_tables_keep_the_trained_rows_and_draw_the_rest(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """16 positions behind 2 reserved rows become 24; 120 words, stored in 128 rows, become 130, in 256."""
    drawn = fresh(max_position_embeddings=24, vocab_size=130)
    state = warm_started(drawn, str(trained), tiny("roberta", max_position_embeddings=24, vocab_size=130))
    theirs, mine, before = (flatten(p) for p in (noisy(tiny("roberta"), ("mlm",)), state.params, drawn.params))
    positions, words = "positions/position/embedding", "word_embeddings/embedding"
    for path, kept in ((positions, 18), (words, 120)):
        np.testing.assert_array_equal(mine[path][:kept], theirs[path][:kept])
        np.testing.assert_array_equal(mine[path][kept:], before[path][kept:])
    assert mine[positions].shape[0] == 26
    assert np.all(mine[words][130:] == 0)
    for path in set(mine) - {positions, words}:
        np.testing.assert_array_equal(mine[path], (before if path.startswith("pooler") else theirs)[path])
    said = capsys.readouterr().err
    assert "drawn from the seed: pooler, 10 rows of words, 8 rows of positions\n" in said
    assert "not used: mlm, mlm/norm, mlm/transform\n" in said


def test_the_layer_of_the_same_task_is_taken_over(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of our labels; of another task, and of as many outputs, it stays as it was drawn."""
    layer = TaskLayer("ForSequenceClassification", ("no", "yes", "perhaps"))
    kernel, bias = np.arange(96, dtype=np.float32).reshape(32, 3), np.float32([0, 1, 2])
    cfg = tiny("roberta")
    params = noisy(cfg, ("pooler",)) | {"classifier": {"kernel": kernel, "bias": bias}}
    LanguageModel(cfg, ("pooler",), params, None, layer).save_hf(tmp_path / "hf")
    drawn = fresh()
    drawn = drawn.replace(params=drawn.params | {"classifier": {"kernel": jnp.ones((32, 3)), "bias": jnp.ones(3)}})
    for labels, order in ((("perhaps", "no", "yes"), [2, 0, 1]), (("no", "yes", "never"), None), ((), None)):
        ours = TaskLayer(layer.hf_class, labels)
        found = warm_started(drawn, str(tmp_path / "hf"), cfg, ours).params["classifier"]
        np.testing.assert_array_equal(found["kernel"], kernel[:, order] if order else np.ones((32, 3)))
        np.testing.assert_array_equal(found["bias"], bias[order] if order else np.ones(3))
        said = capsys.readouterr().err
        assert ("taken over with the task's layer: classifier\n" in said) == bool(order)
        assert ("drawn from the seed: classifier\n" in said) == ("not used: classifier\n" in said) == (not order)
    wide = drawn.replace(params=drawn.params | {"classifier": {"kernel": jnp.ones((32, 2)), "bias": jnp.ones(2)}})
    found = warm_started(wide, str(tmp_path / "hf"), cfg, layer).params["classifier"]
    np.testing.assert_array_equal(found["bias"], np.ones(2))


def test_nothing_to_begin_with() -> None:
    state = fresh()
    assert warm_started(state, "", tiny("roberta")) is state


def test_another_shape_or_family(trained: Path) -> None:
    with pytest.raises(UserError, match=r"has shape .*, in the run's model"):
        warm_started(fresh(intermediate_size=80), str(trained), tiny("roberta", intermediate_size=80))
    with pytest.raises(UserError, match="is a RobertaConfig, the run's model a BertConfig"):
        warm_started(fresh(), str(trained), tiny("bert"))
    with pytest.raises(UserError, match="no directory nowhere"):
        warm_started(fresh(), "nowhere", tiny("roberta"))
