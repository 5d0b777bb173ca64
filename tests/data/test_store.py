import json
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath

from lmjax.data import store
from lmjax.data.store import CHUNK, ArrayWriter, Store, built_aside, open_array, write_array
from lmjax.errors import UserError


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, 2 * CHUNK + 5])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i8"])
def test_memory_map_and_tensorstore_read_the_same_file(tmp_path, size, dtype):
    values = np.random.default_rng(size).integers(0, np.iinfo(dtype).max, size, np.dtype(dtype), endpoint=True)
    writer = ArrayWriter(epath.Path(tmp_path / "a"), np.dtype(dtype))
    for part in np.array_split(values, 3):
        writer.append(part)
    writer.close()
    local, remote = open_array(epath.Path(tmp_path / "a")), store._remote_array(f"file://{tmp_path}/a")
    index = np.random.default_rng(0).integers(0, size, (7, 11))
    assert local.shape == remote.shape == (size,)
    assert local.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(local, values)
    np.testing.assert_array_equal(np.asarray(remote[:]), values)
    np.testing.assert_array_equal(np.asarray(remote[index]), values[index])


def test_remote_paths_go_to_tensorstore(monkeypatch):
    monkeypatch.setattr(store, "_remote_array", lambda url: url)
    assert open_array(epath.Path("gs://bucket/store/train/tokens")) == "gs://bucket/store/train/tokens"


def test_built_aside_leaves_nothing_behind_a_failure(tmp_path):
    target = epath.Path(tmp_path / "made")

    def fail():
        with built_aside(target) as building:
            write_array(building / "a", np.arange(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []
    with built_aside(target) as building:
        write_array(building / "a", np.arange(3))
        assert not target.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    np.testing.assert_array_equal(open_array(target / "a"), np.arange(3))


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (None, "no data store at"),
        ({"schema_version": 0}, "store schema 0, this lmjax reads 2"),
        ({"schema_version": 2, "tokenizer_fingerprint": "other"}, "its tokenizer is not the one"),
    ],
)
def test_stores_that_cannot_be_read_are_refused(tmp_path, monkeypatch, meta, message):
    monkeypatch.setattr(store, "load_tokenizer", lambda path: SimpleNamespace(fingerprint="this"))
    if meta:
        (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=message):
        Store.open(tmp_path)
