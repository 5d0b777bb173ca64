"""Data sets of TensorFlow Datasets that lie ready on this machine. Nothing is ever downloaded."""

import re
from collections.abc import Iterator
from typing import Any

from lmjax.data import tf
from lmjax.errors import UserError, did_you_mean


def prepared(name: str, data_dir: str) -> Any:
    """The prepared data set's builder. Asks no network, where a plain `tfds.load` would retry for minutes, and needs no
    TensorFlow, so that the answer comes at once."""
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    base = re.split("[/:]", name)[0]
    known = tfds.list_builders(with_community_datasets=False)
    try:
        builder = tfds.builder(name, data_dir=data_dir or None, try_gcs=False)
    except DatasetNotFoundError:
        close = did_you_mean(base, known) if name else ""
        raise UserError(f"unknown TFDS data set '{name}'{close if 'did you mean' in close else ''}") from None
    except (ValueError, RuntimeError) as error:  # an unknown configuration or version
        raise UserError(f"TFDS data set '{name}': {str(error)[:300]}") from None
    if not builder.is_prepared():
        where = f", data_dir={data_dir!r}" if data_dir else ""
        command = f"import tensorflow_datasets as tfds; tfds.builder({name!r}{where}).download_and_prepare()"
        raise UserError(f"TFDS data set '{name}' is not prepared; this downloads it: python -c \"{command}\"")
    return builder


def rows_of(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a split in a fixed order, texts as bytes. Raises UserError where there is no such split."""
    tf.tensorflow()  # before TFDS imports it, loudly
    import tensorflow_datasets as tfds

    one_reader = tfds.ReadConfig(interleave_cycle_length=1)  # the shards one after the other
    try:
        data = builder.as_dataset(split=split, shuffle_files=False, read_config=one_reader)
    except (ValueError, KeyError):
        known = did_you_mean(split, builder.info.splits)
        raise UserError(f"{builder.info.full_name}: no split '{split}'{known}") from None
    yield from tfds.as_numpy(data)
