import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmjax.data.schedule import Schedule, Stage
from lmjax.errors import UserError

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(1, 4), st.sampled_from([8, 16]), st.integers(0, 4))


@st.composite
def stages(draw):
    made, until = [], 0
    for steps, micro_batches, micro_batch, length, ramp in draw(st.lists(SIZES, min_size=1, max_size=4)):
        until += steps
        ramp_from = min(ramp, micro_batches) * micro_batch
        made.append(Stage(until, micro_batches * micro_batch, length, micro_batches, ramp_from))
    return made


@given(stages(), st.lists(st.tuples(st.integers(0, 47), st.integers(1, 3)), max_size=3))
def test_tables_equal_a_walk_through_the_steps(stages, skips):
    skips = [(step, n) for step, n in skips if step < stages[-1].until_step]
    schedule = Schedule(stages, skips)
    counts, tokens, begin = {}, 0, 0
    for index, stage in enumerate(stages):
        steps = stage.until_step - begin
        for step in range(begin, stage.until_step):
            rows = int(schedule.rows(step))
            assert schedule.stage(step) == index
            assert rows % stage.micro_batch == 0
            if stage.ramp_from:
                wanted = stage.ramp_from + (stage.batch_size - stage.ramp_from) * (step - begin) / max(1, steps - 1)
                assert wanted - stage.micro_batch < rows <= wanted + 1e-9
            else:
                assert rows == stage.batch_size
            counts[stage.length] = counts.get(stage.length, 0) + rows * sum(n for s, n in skips if s == step)
            assert schedule.start(step) == counts[stage.length]
            assert schedule.tokens_before(step) == tokens
            counts[stage.length] += rows
            tokens += rows * stage.length
        begin = stage.until_step
    assert schedule.tokens_before(schedule.steps) == tokens


def test_a_ramp_reaches_from_its_first_size_to_the_batch():
    schedule = Schedule([Stage(5, 16, 8, micro_batches=8, ramp_from=4)])
    assert schedule.rows(slice(None)).tolist() == [4, 6, 10, 12, 16]


def test_a_stream_of_other_data_starts_at_0():
    schedule = Schedule([Stage(3, 4, 8, data=(0,)), Stage(5, 4, 8, data=(1,)), Stage(6, 4, 8, data=(0,))])
    assert schedule.start(slice(None)).tolist() == [0, 4, 8, 0, 4, 12]


def test_long_runs_do_not_overflow():
    schedule = Schedule([Stage(1_000_000, 4096, 2048)])
    assert schedule.tokens_before(1_000_000) == 1_000_000 * 4096 * 2048
    assert schedule.start(999_999).dtype == np.int64


@pytest.mark.parametrize(
    ("stages", "skips", "message"),
    [
        ([], [], "at least one"),
        ([Stage(5, 4, 8), Stage(5, 4, 8)], [], r"stages.1: until_step 5 does not lie after"),
        ([Stage(5, 5, 8, micro_batches=2)], [], r"stages.0: batch_size 5 is not a multiple of micro_batches 2"),
        ([Stage(5, 8, 8, micro_batches=2, ramp_from=2)], [], r"stages.0: ramp_from 2 is not a multiple"),
        ([Stage(5, 8, 8, ramp_from=16)], [], r"exceeds batch_size"),
        ([Stage(5, 8, 8)], [(5, 1)], r"skip \(5, 1\): the step lies in 0..4"),
    ],
)
def test_impossible_schedules_are_refused(stages, skips, message):
    with pytest.raises(UserError, match=message):
        Schedule(stages, skips)
