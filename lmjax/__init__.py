"""lmjax: pretraining, fine-tuning and alignment of language models in JAX."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from lmjax.interop import LanguageModel


def load(path: "str | os.PathLike[str]", average: int = 1) -> "LanguageModel":
    """A model ready for use, from a run (or the mean of its last checkpoints), RUN/best, a checkpoint or a Hugging Face
    directory (`lmjax.interop.load`)."""
    from lmjax import interop  # seconds, and `import lmjax` is quick

    return interop.load(path, average)
