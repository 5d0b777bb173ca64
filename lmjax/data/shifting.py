"""Targets of a decoder, which of them count, and the walls between its documents."""

from typing import Any

from lmjax.data.masking import RowKeys
from lmjax.data.tf import tensorflow


def next_token_targets(features: dict[str, Any], keys: RowKeys) -> dict[str, Any]:
    """tokens int32 [N, L + 1] -> tokens and targets int32 [N, L], each target one further, loss_weights float32 [N,
    L]."""
    tf = tensorflow()
    tokens = features["tokens"]
    targets = tokens[:, 1:]
    return {"tokens": tokens[:, :-1], "targets": targets, "loss_weights": tf.ones_like(targets, tf.float32)}


def document_segments(tokens: Any, eos_id: int) -> Any:
    """segment_ids for tokens int32 [N, L]: 1 in a row's first document, 2 in its second, ...; `eos_id` closes each."""
    tf = tensorflow()
    return 1 + tf.cumsum(tf.cast(tokens == eos_id, tf.int32), axis=1, exclusive=True)


def real_targets(features: dict[str, Any], keys: RowKeys) -> dict[str, Any]:
    """Adds loss_weights float32 [N, L], 1 where `segment_ids` say that there is no padding."""
    tf = tensorflow()
    return features | {"loss_weights": tf.cast(features["segment_ids"] > 0, tf.float32)}
