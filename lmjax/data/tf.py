"""TensorFlow, imported when a pipeline is built and not before: it costs seconds, and must be told to be quiet."""

import contextlib
import functools
import os
from typing import Any


@functools.cache
def tensorflow() -> Any:
    """The module, without its log lines and without the accelerators, which belong to JAX."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # somebody else has already set TensorFlow's devices up
        tf.config.set_visible_devices([], "GPU")
    return tf
