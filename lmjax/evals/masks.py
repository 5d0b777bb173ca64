"""Filling masks: what a masked language model puts in the place of [MASK]."""

import jax
import numpy as np

from lmjax.errors import UserError
from lmjax.interop import LanguageModel
from lmjax.models.architecture import check_use


def fill_masks(lm: LanguageModel, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
    """For each mask token in `text`, the `top` likeliest tokens with their probabilities, likeliest first.

    Raises:
      UserError: a model without masks, or a text without one.
    """
    check_use(lm.config, lm.heads, "fill-mask")
    if (mask_id := lm.tokenizer.mask_id) is None:
        raise UserError("the tokenizer has no [MASK], which stands where a word is to be filled in")
    features = lm.encode(text)
    positions = np.flatnonzero(features["tokens"][0] == mask_id)
    if not len(positions):
        raise UserError(f"the text has no mask; write {lm.tokenizer.token(mask_id)} where a word is to be filled in")
    logits = lm(**features, mlm_positions=positions[None])["logits"][0]
    probabilities, ids = jax.lax.top_k(jax.nn.softmax(logits), min(top, lm.config.vocab_size))
    rows = zip(np.asarray(ids).tolist(), np.asarray(probabilities).tolist(), strict=True)
    return [[(lm.tokenizer.token(i), p) for i, p in zip(*row, strict=True)] for row in rows]
