"""The recipes that fine-tuning configs share, of which each config says what is its own: BERT's, and Alpaca's."""

from typing import Any

from lmjax.data.files import data_folder
from lmjax.finetuning import FinetuneConfig
from lmjax.tasks.choice import ChoiceConfig
from lmjax.tasks.classification import ClassificationConfig
from lmjax.tasks.instruction import InstructionConfig
from lmjax.tasks.spans import SpanConfig
from lmjax.tasks.tagging import Context, TaggingConfig
from lmjax.tasks.task import FilesConfig
from lmjax.train.optim import OptimConfig


def sentences(data: str, *folder: str, optim: OptimConfig | None = None, **changes: Any) -> FinetuneConfig:
    """Classification or regression of texts: 128 tokens, batches of 32, 3 epochs, rate 2e-5, a tenth of it warm-up
    (Devlin et al. 2019, section 4.1 and appendix A.3).

    AdamW corrects its biases, without which small sets often fail (Mosbach et al. 2021); the original does not:
    `--optim.optimizer bert_adam --optim.decay linear_from_zero`.
    """
    task = ClassificationConfig(data=data, folder=data_folder(*folder), **changes.pop("files", {}))
    return _recipe(task, optim, **changes)


def spans(data: str, *folder: str, optim: OptimConfig | None = None, **changes: Any) -> FinetuneConfig:
    """Answers in paragraphs: 384 tokens, windows 128 apart, batches of 12, 2 epochs, rate 3e-5 (google-research/bert's
    README; the paper, section 4.2, has batches of 32, 3 epochs and 5e-5)."""
    task = SpanConfig(data=data, folder=data_folder(*folder), **changes.pop("files", {}))
    recipe = {"length": 384, "batch_size": 12, "epochs": 2.0, **changes}
    return _recipe(task, optim or OptimConfig(peak_lr=3e-5), **recipe)


def choices(data: str, *folder: str, **changes: Any) -> FinetuneConfig:
    """One of several endings: 128 tokens each, batches of 16, 3 epochs, rate 2e-5 (Devlin et al. 2019, section 4.4)."""
    return _recipe(ChoiceConfig(data=data, folder=data_folder(*folder)), None, **{"batch_size": 16, **changes})


def tags(data: str, *folder: str, context: Context, optim: OptimConfig | None = None, **changes: Any) -> FinetuneConfig:
    """A tag for each word: 128 tokens, batches of 32, 3 epochs, rate 5e-5; these are among those that Devlin et al.
    2019 try (appendix A.3)."""
    task = TaggingConfig(data=data, folder=data_folder(*folder), context=context)
    return _recipe(task, optim or OptimConfig(peak_lr=5e-5), **changes)


def instructions(data: str, *folder: str, optim: OptimConfig | None = None, **changes: Any) -> FinetuneConfig:
    """Supervised tuning: 3 epochs, rate 2e-5 along a cosine after 3% of warm-up, no weight decay (Taori et al. 2023,
    for a 7B LLaMA); batches of 32 packed rows of 512 tokens, about their 128 examples; a twentieth held out."""
    task = InstructionConfig(data=data, folder=data_folder(*folder), heldout_share=0.05, **changes.pop("files", {}))
    recipe = {"directory": f"runs/{data}_sft", "length": 512, "batch_size": 32, "warmup": 0.03, **changes}
    return FinetuneConfig(
        task=task, optim=optim or OptimConfig(peak_lr=2e-5, weight_decay=0.0, decay="cosine"), **recipe
    )


def _recipe(task: FilesConfig, optim: OptimConfig | None, **changes: Any) -> FinetuneConfig:
    recipe: dict[str, Any] = {"directory": f"runs/finetune/{task.data}", "dropout": 0.1, **changes}
    return FinetuneConfig(task=task, optim=optim or OptimConfig(peak_lr=2e-5), **recipe)
