"""Batches as a pure function of (seed, step): any process count, restart point and thread count give the same rows.

step -> numbers of its rows in an endless stream -> source, pass and shuffled row of each -> this process's rows
gathered from the stores -> the task's transform (masking), in one tf.data graph over whole batches.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmjax.data.instances import Table
from lmjax.data.masking import MIXTURE, PASS, RowKeys, random_bits
from lmjax.data.schedule import Schedule, Stage
from lmjax.data.tf import tensorflow
from lmjax.errors import UserError

PERIOD = 1000  # rows over which a mixture keeps its proportions exactly
AHEAD = 2  # batches made before they are asked for

Transform = Callable[[dict[str, Any], RowKeys], dict[str, Any]]  # TensorFlow tensors, [n, ...] each


@dataclass(frozen=True)
class Stream:
    """What one stage draws from: tables in the proportion of `weights`, and the task's transform of a batch."""

    tables: tuple[Table, ...]
    weights: tuple[float, ...]
    transform: Transform


def batches(
    streams: Sequence[Stream],
    schedule: Schedule,
    seed: int,
    first_step: int,
    last_step: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Steps first_step..last_step - 1 and this process's share of their batches; one stream for each stage.

    Every feature is [A, b, ...]: A micro-batches of b rows, this process's part of a micro-batch; the processes' parts
    joined along axis 1 are the batch. Beyond the step's real rows every `*_weights` feature is 0. Besides the
    transform's features: `example_weights` float32 [A, b], 1 for real rows; `micro_batches` int32, how many hold real
    rows; `tokens_seen` float32, tokens of all earlier steps.

    Raises:
      UserError: a micro-batch that the processes do not divide; fewer rows than one batch.
    """
    for index, (stage, begin) in enumerate(zip(schedule.stages, schedule.begins, strict=True)):
        steps = range(max(begin, first_step), min(stage.until_step, last_step))
        if not steps:
            continue
        share = _share(stage.micro_batch, process_count)
        rows = np.arange(stage.batch_size).reshape(stage.micro_batches, process_count, share)[:, process_index].ravel()
        for step, features in zip(steps, _stage(streams[index], stage, schedule, steps, rows, seed), strict=True):
            shaped: dict[str, Any] = {
                k: v.reshape(stage.micro_batches, share, *v.shape[1:]) for k, v in features.items()
            }
            shaped["micro_batches"] = np.int32(schedule.rows(step) // stage.micro_batch)
            shaped["tokens_seen"] = np.float32(schedule.tokens_before(step))
            yield step, shaped


def heldout_batches(
    table: Table,
    transform: Transform,
    batch_size: int,
    seed: int,
    rows: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterable[dict[str, np.ndarray]]:
    """The table's rows in order (or `rows` of them, evenly spaced), with the same masks each time that it is gone
    through. Features [b, ...]: this process's share of `batch_size`; beyond the last row `example_weights` and every
    other `*_weights` feature are 0. Contiguous rows come as in training, whole batches of them."""
    tf = tensorflow()
    total = int(table.pass_ends[0])
    count = min(rows or total, total)
    share = _share(batch_size, process_count)
    number = np.arange(-(-count // batch_size) * batch_size).reshape(-1, process_count, share)[:, process_index]
    chosen = np.minimum(number, count - 1) * total // count
    if table.cfg.contiguous:
        number = number[: max(1, count // batch_size)]
        if (stretch := total // batch_size) == 0:
            raise UserError(f"the held-out side has {total} rows, fewer than one batch of {batch_size}")
        chosen, count = number % batch_size * stretch + number // batch_size, total
    finish = _features((table,), transform, seed)
    return _Batches((chosen, number < count), lambda row, real: finish(row, tf.zeros_like(row), real))


def batch_digest(features: Mapping[str, np.ndarray]) -> str:
    """sha256 over the features' names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(features):
        value = np.ascontiguousarray(features[name])
        digest.update(f"{name} {value.dtype.str} {value.shape} ".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def mixture_counts(weights: Sequence[float]) -> np.ndarray:
    """Rows of each source in a period, int64 [sources]: shares by the largest remainder.

    Raises:
      UserError: a source that makes up less than one row of a period.
    """
    if min(weights) <= 0 or min(weights) * PERIOD < sum(weights):
        raise UserError(f"data weights {tuple(weights)}: each source must make up at least 1/{PERIOD} of the mixture")
    exact = np.asarray(weights, np.float64) / sum(weights) * PERIOD
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: PERIOD - counts.sum()]] += 1
    return counts


def locate(tables: Sequence[Table], weights: Sequence[float], seed: int) -> Callable[[Any], tuple[Any, Any]]:
    """A function from rows of the stream, int64 [n], to (row, pass), int64 [n] each.

    `row` counts through the tables laid end to end. Each pass over a source is shuffled by itself, without replacement;
    a table of several passes (duplicates) is gone through in their order, then anew.
    """
    tf = tensorflow()
    begins = np.cumsum([0, *(table.pass_ends[-1] for table in tables)])
    pass_ends = np.concatenate([table.pass_ends + begin for table, begin in zip(tables, begins, strict=False)])
    pass_begins = np.concatenate([[0], pass_ends[:-1]])
    passes = np.array([len(table.pass_ends) for table in tables])
    first_pass = np.cumsum(passes) - passes
    counts = mixture_counts(weights)
    slot_ends = np.cumsum(counts)

    def shuffle(index: Any, size: Any, number: Any, source: Any, purpose: int) -> Any:
        keys = RowKeys(tf.fill(tf.shape(index), np.int64(seed)), number, source)
        # Hashed, as the op's cipher leaves a third of the rows in place under a key of zeros.
        key = random_bits(keys, tf.range(3)[None], purpose)
        return tf.raw_ops.RandomIndexShuffle(index=index, seed=key, max_index=size - 1, rounds=4)

    def of_source(row: Any) -> tuple[Any, Any]:
        if len(tables) == 1:
            return tf.zeros_like(row), row
        block = row // PERIOD
        slot = shuffle(row % PERIOD, tf.fill(tf.shape(row), np.int64(PERIOD)), block, tf.zeros_like(row), MIXTURE)
        source = tf.searchsorted(slot_ends, slot, side="right", out_type=tf.int64)
        return source, block * tf.gather(counts, source) + slot - tf.gather(slot_ends - counts, source)

    def function(row: Any) -> tuple[Any, Any]:
        source, index = of_source(row)
        begin = tf.gather(begins, source)
        cycle = tf.gather(begins, source + 1) - begin
        part = tf.searchsorted(pass_ends, begin + index % cycle, side="right", out_type=tf.int64)
        part_begin = tf.gather(pass_begins, part)
        data_pass = index // cycle * tf.gather(passes, source) + part - tf.gather(first_pass, source)
        within = begin + index % cycle - part_begin
        size = tf.gather(pass_ends, part) - part_begin
        return part_begin + shuffle(within, size, data_pass, source, PASS), data_pass

    return function


def in_order(tables: Sequence[Table], batch_size: int) -> Callable[[Any], tuple[Any, Any]]:
    """`locate` for contiguous rows: row r of each batch reads the r-th of `batch_size` equal stretches of the table, a
    row further each step; at its end, from its beginning again. Rows that do not fill a stretch are left out."""
    if len(tables) > 1:
        raise UserError("rows that continue from batch to batch are drawn from one corpus; give the stage one")
    stretch = int(tables[0].pass_ends[0]) // batch_size

    def function(row: Any) -> tuple[Any, Any]:
        step = row // batch_size
        return row % batch_size * stretch + step % stretch, step // stretch

    return function


def _stage(
    stream: Stream, stage: Stage, schedule: Schedule, steps: range, rows: np.ndarray, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    if (total := sum(int(table.pass_ends[-1]) for table in stream.tables)) < stage.batch_size:
        raise UserError(
            f"the data has {total} rows of length {stage.length}, fewer than one batch of {stage.batch_size}"
        )
    where = locate(stream.tables, stream.weights, seed)
    if stream.tables[0].cfg.contiguous:
        where = in_order(stream.tables, stage.batch_size)
    finish = _features(stream.tables, stream.transform, seed)
    span = slice(steps.start, steps.stop)
    slices = schedule.start(span), schedule.rows(span)
    return iter(_Batches(slices, lambda start, real: finish(*where(start + rows), rows < real)))


def _features(tables: Sequence[Table], transform: Transform, seed: int) -> Callable[[Any, Any, Any], dict[str, Any]]:
    """A function from (row, pass, real) [n] to a batch's features."""
    tf = tensorflow()
    begins = np.cumsum([0, *(table.pass_ends[-1] for table in tables)])
    empty = tables[0].gather(np.zeros(0, np.int64))
    names = sorted(empty)

    def gather(row: np.ndarray) -> list[np.ndarray]:
        if len(tables) == 1:
            features = tables[0].gather(row)
            return [features[name] for name in names]
        source = np.searchsorted(begins, row, side="right") - 1
        joined = {name: np.empty((len(row), *empty[name].shape[1:]), empty[name].dtype) for name in names}
        for k in np.unique(source):
            for name, value in tables[k].gather(row[source == k] - begins[k]).items():
                joined[name][source == k] = value
        return [joined[name] for name in names]

    def function(row: Any, data_pass: Any, real: Any) -> dict[str, Any]:
        values = tf.numpy_function(gather, [row], [empty[name].dtype for name in names], stateful=False)
        for name, value in zip(names, values, strict=True):
            value.set_shape([row.shape[0], *empty[name].shape[1:]])
        keys = RowKeys(tf.fill(tf.shape(row), tf.constant(seed, tf.int64)), data_pass, row)
        features = transform(dict(zip(names, values, strict=True)), keys)
        features["example_weights"] = tf.ones(tf.shape(row), tf.float32)
        return {
            name: _only_real(value, real) if name.endswith("_weights") else value for name, value in features.items()
        }

    return function


def _only_real(weights: Any, real: Any) -> Any:
    tf = tensorflow()
    return tf.where(tf.reshape(real, [-1] + [1] * (weights.shape.rank - 1)), weights, tf.zeros_like(weights))


class _Batches:
    """`features` of each of the slices, in their order; the graph is traced once, however often it is gone through."""

    def __init__(self, slices: tuple[np.ndarray, ...], features: Callable[..., dict[str, Any]]):
        tf = tensorflow()
        options = tf.data.Options()
        options.deterministic = True
        # Plain TensorFlow calls throughout: there is nothing for AutoGraph to convert, and to find that out is slow.
        features = tf.autograph.experimental.do_not_convert(features)
        data = tf.data.Dataset.from_tensor_slices(slices).map(features, tf.data.AUTOTUNE)
        self._data = data.with_options(options).prefetch(AHEAD)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self._data.as_numpy_iterator()


def _share(rows: int, processes: int) -> int:
    if rows % processes:
        raise UserError(
            f"a micro-batch of {rows} rows is not divisible by {processes} processes; change the batch size"
        )
    return rows // processes
