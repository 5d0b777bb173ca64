"""The recipe that fine-tuning configs share: BERT's, of which each config says what is its own."""

import os
from typing import Any

from lmjax.finetuning import FinetuneConfig
from lmjax.tasks.classification import ClassificationConfig
from lmjax.train.optim import OptimConfig


def data_folder(*parts: str) -> str:
    """A folder of the data, under $LMJAX_DATA or ../shared/data."""
    return os.path.join(os.environ.get("LMJAX_DATA", "../shared/data"), *parts)


def sentences(data: str, *folder: str, optim: OptimConfig | None = None, **changes: Any) -> FinetuneConfig:
    """Classification or regression of texts: 128 tokens, batches of 32, 3 epochs, rate 2e-5, a tenth of it warm-up
    (Devlin et al. 2019, section 4.1 and appendix A.3).

    AdamW corrects its biases, without which small sets often fail (Mosbach et al. 2021); the original does not:
    `--optim.optimizer bert_adam --optim.decay linear_from_zero`.
    """
    task = ClassificationConfig(data=data, folder=data_folder(*folder))
    recipe: dict[str, Any] = {"directory": f"runs/finetune/{data}", "dropout": 0.1, **changes}
    return FinetuneConfig(task=task, optim=optim or OptimConfig(peak_lr=2e-5), **recipe)
