import numpy as np
import pytest

from lmjax.data.instances import SentencePairs, Windows
from lmjax.data.masking import MaskingConfig, mask_tokens
from lmjax.data.pipeline import Stream, batch_digest, batches, heldout_batches, locate, mixture_counts
from lmjax.data.schedule import Schedule, Stage
from lmjax.errors import UserError
from tests.data.synthetic import MASK, VOCAB, make_table

TABLE = make_table(SentencePairs(32, duplicates=2), documents=60)
OTHER = make_table(SentencePairs(32, duplicates=3), documents=45, seed=1)


def masked(features, keys):
    return mask_tokens(features, keys, MaskingConfig(max_predictions=5), MASK, VOCAB)


def numbered(features, keys):
    """Only says which rows were asked for."""
    return {"row": keys.row, "data_pass": keys.data_pass, "seed": keys.seed}


STREAM = Stream((TABLE,), (1.0,), masked)
ROWS = Stream((TABLE,), (1.0,), numbered)


def run(stream, stages, first=0, last=None, seed=0, skips=(), **processes):
    schedule = Schedule(stages, skips)
    last = schedule.steps if last is None else last
    return dict(batches([stream] * len(stages), schedule, seed, first, last, **processes))


def assert_same(one, two, but=()):
    assert one.keys() == two.keys()
    for name in one.keys() - set(but):
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
        assert one[name].dtype == two[name].dtype


def test_recorded_batches():
    """What (seed, step) gives must never change: a run resumed with a newer version would see other data."""
    schedule = Schedule([Stage(998, 16, 32, micro_batches=2)])
    made = {s: b for f in (0, 997) for s, b in batches([STREAM], schedule, 7, f, min(f + 2, 998))}
    assert {step: batch_digest(made[step]) for step in (0, 1, 997)} == {
        0: "c6ba5ae8b9509ae4f5349dfaeedee2d22c9d07343c40ab12297d36f9993db29f",
        1: "64ea4a28bf0e324b4446b4247e02caae98d0c39118d89829052a0f69c941d936",
        997: "376b93cea6b87b76257f8de22ca91cd3eae802712f6b34fe95a0ec8ae5f515f8",
    }


def test_the_digest_sees_names_types_shapes_and_values():
    x = np.arange(6, dtype=np.int32)
    digests = {
        batch_digest(f) for f in ({"a": x}, {"b": x}, {"a": x.reshape(2, 3)}, {"a": x.astype(np.int64)}, {"a": x + 1})
    }
    assert len(digests) == 5
    assert batch_digest({"a": x, "b": x}) == batch_digest({"b": x, "a": x})


def test_every_row_comes_once_a_pass_and_in_a_new_order():
    size, (first, total) = 12, TABLE.pass_ends
    rows = np.concatenate([b["row"].ravel() for b in run(ROWS, [Stage(2 * total // size + 1, size, 32)]).values()])
    passes = np.concatenate(
        [b["data_pass"].ravel() for b in run(ROWS, [Stage(2 * total // size + 1, size, 32)]).values()]
    )
    assert sorted(rows[:first]) == list(range(first))
    assert sorted(rows[first:total]) == list(range(first, total))
    assert sorted(rows[total : total + first]) == list(range(first))
    np.testing.assert_array_equal(passes[: 2 * total], np.repeat([0, 1, 2, 3], [first, total - first] * 2))
    assert (rows[:first] == np.arange(first)).mean() < 0.05
    assert (rows[:first] == rows[total : total + first]).mean() < 0.05
    assert (rows[:first] == next(iter(run(ROWS, [Stage(1, first, 32)], seed=1).values()))["row"].ravel()).mean() < 0.05


def test_a_restart_gives_the_same_batches():
    stages = [Stage(6, 8, 32, micro_batches=2), Stage(11, 12, 32, ramp_from=3, micro_batches=4)]
    whole = run(STREAM, stages)
    for first, last in ((4, 9), (6, 11), (10, 11)):
        part = run(STREAM, stages, first, last)
        assert list(part) == list(range(first, last))
        for step, batch in part.items():
            assert_same(batch, whole[step])


def test_any_number_of_processes_makes_the_same_batches():
    stages = [Stage(3, 16, 32, micro_batches=2, ramp_from=8)]
    whole = run(STREAM, stages)
    for count in (2, 4):
        parts = [run(STREAM, stages, process_index=p, process_count=count) for p in range(count)]
        for step, batch in whole.items():
            joined = {
                k: np.concatenate([p[step][k] for p in parts], axis=1) if v.ndim else parts[0][step][k]
                for k, v in batch.items()
            }
            assert_same(joined, batch)


def test_micro_batches_cut_the_same_rows():
    one, four = run(ROWS, [Stage(2, 16, 32)]), run(ROWS, [Stage(2, 16, 32, micro_batches=4)])
    assert one[1]["row"].shape == (1, 16)
    assert four[1]["row"].shape == (4, 4)
    np.testing.assert_array_equal(one[1]["row"].ravel(), four[1]["row"].ravel())


def test_a_ramp_silences_the_rows_that_do_not_count_yet():
    stages = [Stage(3, 12, 32, micro_batches=3, ramp_from=4)]
    made = run(STREAM, stages)
    for step, real in enumerate((1, 2, 3)):
        batch = made[step]
        assert batch["micro_batches"] == real
        assert batch["example_weights"].tolist() == [[1.0] * 4] * real + [[0.0] * 4] * (3 - real)
        assert not batch["loss_weights"][real:].any()
        assert batch["loss_weights"][:real].any(-1).all()
    assert [float(b["tokens_seen"]) for b in made.values()] == [0, 4 * 32, 12 * 32]
    rows = run(ROWS, stages)
    used = np.concatenate([rows[s]["row"][: s + 1].ravel() for s in range(3)])
    np.testing.assert_array_equal(used, run(ROWS, [Stage(1, 24, 32)])[0]["row"].ravel())


def test_stages_of_one_stream_go_on_where_the_last_one_ended():
    cut = run(STREAM, [Stage(3, 8, 32), Stage(6, 8, 32)])
    for step, batch in run(STREAM, [Stage(6, 8, 32)]).items():
        assert_same(batch, cut[step])


def test_a_skip_jumps_over_batches():
    plain, skipped = run(STREAM, [Stage(8, 8, 32)]), run(STREAM, [Stage(6, 8, 32)], skips=((3, 2),))
    for step, batch in skipped.items():
        assert_same(batch, plain[step if step < 3 else step + 2], but=["tokens_seen"])
        assert batch["tokens_seen"] == step * 8 * 32


def test_mixtures_keep_their_proportions_and_their_sources_orders():
    from lmjax.data.tf import tensorflow

    tables, weights = (TABLE, OTHER), (0.7, 0.3)
    row, data_pass = (x.numpy() for x in locate(tables, weights, seed=5)(tensorflow().range(5000, dtype="int64")))
    begins = np.array([0, TABLE.pass_ends[-1], TABLE.pass_ends[-1] + OTHER.pass_ends[-1]])
    source = np.searchsorted(begins, row, side="right") - 1
    assert (source.reshape(5, 1000).sum(1) == 300).all()
    assert len({tuple(block) for block in source.reshape(5, 1000)}) == 5
    for k, table in enumerate(tables):
        of_source, passes = row[source == k] - begins[k], data_pass[source == k]
        sizes = np.diff([0, *table.pass_ends])
        for number in range(passes.max()):  # the last one may be unfinished
            kind = number % len(sizes)
            end = table.pass_ends[kind]
            assert sorted(of_source[passes == number]) == list(range(end - sizes[kind], end))


def test_mixed_batches_hold_each_sources_own_rows():
    mixed = run(Stream((TABLE, OTHER), (2.0, 1.0), lambda f, k: f | {"row": k.row}), [Stage(3, 64, 32)])
    for batch in mixed.values():
        rows = batch["row"].ravel()
        here = rows < TABLE.pass_ends[-1]
        assert 0 < here.sum() < 64
        for table, which, begin in ((TABLE, here, 0), (OTHER, ~here, TABLE.pass_ends[-1])):
            for name, value in table.gather(rows[which] - begin).items():
                np.testing.assert_array_equal(batch[name][0][which], value)


def test_shares_are_cut_by_the_largest_remainder():
    assert mixture_counts([1, 1, 1]).tolist() == [334, 333, 333]
    assert mixture_counts([60, 22, 8, 8, 3]).tolist() == [594, 218, 79, 79, 30]
    for weights in ([1, 0], [1, -1], [1, 1e-6]):
        with pytest.raises(UserError, match="at least 1/1000"):
            mixture_counts(weights)


def test_heldout_rows_come_in_order_with_the_same_masks():
    first, again = (list(heldout_batches(TABLE, masked, 16, seed=3)) for _ in range(2))
    total = TABLE.pass_ends[0]
    assert sum(b["example_weights"].sum() for b in first) == total
    assert len(first) == -(-total // 16)
    for one, two in zip(first, again, strict=True):
        assert_same(one, two)
    padded = first[-1]["example_weights"] == 0
    assert padded.any()
    assert not first[-1]["loss_weights"][padded].any()
    rows = np.concatenate([b["row"] for b in heldout_batches(TABLE, numbered, 16, seed=3)])
    np.testing.assert_array_equal(rows[:total], np.arange(total))


def test_heldout_rows_are_shared_out_and_thinned_evenly():
    whole = list(heldout_batches(TABLE, numbered, 8, seed=3, rows=20))
    parts = [
        list(heldout_batches(TABLE, numbered, 8, seed=3, rows=20, process_index=p, process_count=2)) for p in (0, 1)
    ]
    for i, batch in enumerate(whole):
        assert_same({k: np.concatenate([p[i][k] for p in parts]) for k in batch}, batch)
    rows = np.concatenate([b["row"] for b in whole])[:20]
    assert (np.abs(np.diff(rows) - TABLE.pass_ends[0] / 20) <= 1).all()
    assert sum(b["example_weights"].sum() for b in whole) == 20


def test_windows_pass_through():
    table = make_table(Windows(16))
    batch = run(Stream((table,), (1.0,), lambda f, k: f), [Stage(1, 4, 16)])[0]
    assert batch["tokens"].shape == (1, 4, 17)


def test_batches_that_cannot_be_made_are_refused():
    with pytest.raises(UserError, match="not divisible by 4 processes"):
        run(STREAM, [Stage(1, 6, 32)], process_count=4)
    with pytest.raises(UserError, match=r"the data has \d+ rows of length 32, fewer than one batch of 100000"):
        run(STREAM, [Stage(1, 100_000, 32)])
