"""What a task is: how rows become batches, what the model carries on top, and what is optimised."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from etils import epath

from lmjax.data.chat_template import ChatTemplate
from lmjax.data.examples import Encoded, EncodedRows
from lmjax.data.framing import Frame
from lmjax.data.instances import InstanceConfig
from lmjax.data.masking import MaskingConfig
from lmjax.data.splits import find_splits
from lmjax.data.tokenizers import Tokenizer
from lmjax.data.words import CHARACTERS
from lmjax.errors import UserError
from lmjax.models.architecture import Architecture
from lmjax.models.features import FeatureConfig
from lmjax.models.task_layers import TaskLayer
from lmjax.models.wrapped import Read
from lmjax.objectives import Objective
from lmjax.types import Array, Outputs

Features = Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class TaskConfig:
    """Base of the tasks' configs."""


@dataclass(frozen=True)
class SupervisedConfig(TaskConfig):
    """Base of the tasks on labelled examples. `frame`: how texts become a row, see `data.framing`; fine-tuning sets it
    to what the architecture reads. `features`: what of a frozen model is learned from, if it is not trained itself."""

    frame: Frame = "separated"
    features: FeatureConfig = FeatureConfig()


@dataclass(frozen=True, kw_only=True)
class FilesConfig(SupervisedConfig):
    """Base of those whose examples lie in files.

    `data`: the set's name. `folder`: where its files lie. `train`, `heldout`: the names of those files, where they are
    not the official ones; `heldout_share`: hold out that share of the training examples, instead of the official file.
    `limit`: train on so many examples only, always the same (0 = all). `alone`: this file is read as the test file, and
    nothing else.
    """

    data: str
    folder: str = ""
    train: str = ""
    heldout: str = ""
    heldout_share: float = 0.0
    limit: int = 0
    alone: str = ""

    def __post_init__(self) -> None:
        if self.limit < 0 or not 0 <= self.heldout_share < 1:
            raise UserError(
                f"task: limit {self.limit} must be 0 (all) or more, and 0 <= heldout_share {self.heldout_share:g} < 1"
            )
        if self.heldout and self.heldout_share:
            raise UserError(
                f"task: heldout names a file, '{self.heldout}', and heldout_share {self.heldout_share:g} cuts one off "
                "the training examples; leave one of them out (heldout '' or heldout_share 0)"
            )

    def files(self, names: Mapping[str, str], kinds: Sequence[str]) -> dict[str, epath.Path]:
        """split -> its file; see `find_splits`. Raises UserError where `alone` is not there, too."""
        if self.alone:
            if not epath.Path(self.alone).is_file():
                raise UserError(f"no file {self.alone}")
            return {"test": epath.Path(self.alone)}
        renamed = {split: name for split, name in (("train", self.train), ("heldout", self.heldout)) if name}
        if self.heldout_share:
            names = {split: name for split, name in names.items() if split != "heldout"}
        return find_splits(self.data, names, kinds, self.folder, renamed)


Predictions = Mapping[str, np.ndarray]  # name -> [rows, ...], in the order of the split
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Supervised:
    """What a task on labelled examples has besides.

    Attributes:
      name: of the data, for directories.
      fingerprint: () -> what tells a changed file from the one before: its examples belong in another store.
      encode: (tokenizer, row length) -> the splits, "train" and "heldout" among them. A split that is labelled is
        evaluated, the others are predicted at the end.
      read: (wrapped model, batch, train) -> Outputs, see `models.wrapped`.
      predict: Outputs -> {name: [rows, ...]}, what is kept of each row.
      score: (split, predictions, the held-out figures) -> figures; the task's headline among them. For the held-out
        split itself the third is empty.
      baselines: (training split, held-out split) -> {figure: {the baseline's name: value}}.
      files: (the split's name, split, predictions, the held-out figures) -> {name: text} of prediction files in the
        official format.
      layer: what stands on the backbone, if classes of Hugging Face's have the same (not every family's do).
      new_tokens: rows of the word table behind the tokenizer's.
      sequences: how many sequences of the row length a row holds.
      reference: those of `predict` that are features of the rows too, as `reference_NAME`: what the model gives at step
        0. `encode` leaves them at zero; see `train.reference`.
      chat_template: what turns conversations into text, of a task that teaches a model to answer.
      features: see `SupervisedConfig`.
    """

    name: str
    fingerprint: Callable[[], str]
    encode: Callable[[Tokenizer, int], Mapping[str, Encoded]]
    read: Read
    predict: Callable[[Outputs], Mapping[str, Array]]
    score: Callable[[Encoded, Predictions, Figures], Figures]
    baselines: Callable[[Encoded, Encoded], Mapping[str, Figures]]
    files: Callable[[str, Encoded, Predictions, Figures], Mapping[str, str]]
    layer: TaskLayer | None = None
    new_tokens: int = 0
    sequences: int = 1
    reference: tuple[str, ...] = ()
    chat_template: ChatTemplate | None = None
    features: FeatureConfig = FeatureConfig()


@dataclass(frozen=True)
class Task:
    """One task, built from its config.

    Attributes:
      heads: what the model carries; on labelled examples, of these what the architecture has.
      objective: what is optimised and reported.
      instances: row length -> how rows are cut from a store.
      transform: (the stage's masking or None, tokenizer) -> a function of (TensorFlow features, RowKeys) to features.
      features: (rows, length, the stage's masking or None) -> the batch that `transform` gives, without its values.
      predictions: (length, the stage's masking or None) -> positions of a row that reach the output layer.
      headline: the held-out figure that keep-best minimises, or maximises where `larger_is_better`.
      carry: whether the model's state goes on from batch to batch.
      supervised: what a task on labelled examples has besides.
    """

    heads: tuple[str, ...]
    objective: Objective
    instances: Callable[[int], InstanceConfig]
    transform: Callable[[MaskingConfig | None, Any], Callable[..., dict[str, Any]]]
    features: Callable[[int, int, MaskingConfig | None], Features]
    predictions: Callable[[int, MaskingConfig | None], int]
    headline: str
    carry: bool = False
    larger_is_better: bool = False
    supervised: Supervised | None = None

    def heads_of(self, architecture: Architecture) -> tuple[str, ...]:
        """The heads of the backbone."""
        return tuple(head for head in self.heads if self.supervised is None or head in architecture.heads)


def labelled_task(
    supervised: Supervised,
    objective: Objective,
    features: Callable[[int, int], Features],
    headline: str,
    heads: tuple[str, ...] = (),
    language_model: bool = False,
) -> Task:
    """A task on labelled examples: its rows lie encoded, and of its headline more is better.

    Args:
      features: (rows, length) -> the batch, without its values.
      language_model: whether every position reaches the output layer besides.
    """
    return Task(
        heads=heads,
        objective=objective,
        instances=EncodedRows,
        transform=lambda masking, tokenizer: lambda features, keys: features,
        features=lambda rows, length, masking: features(rows, length),
        predictions=lambda length, masking: length if language_model else 0,
        headline=headline,
        larger_is_better=True,
        supervised=supervised,
    )


def index_lines(shown: Iterable[str]) -> str:
    """A file of predictions as GLUE takes them: their index and what was predicted, a line each."""
    return "".join(f"{line}\n" for line in ["index\tprediction", *(f"{i}\t{one}" for i, one in enumerate(shown))])


def adapted(task: Task, cfg: SupervisedConfig) -> Task:
    """The task on what fine-tuning gives it to read: words that come spelled, and a frozen backbone without heads."""
    assert task.supervised
    if cfg.features.frozen:
        task = replace(task, heads=(), supervised=replace(task.supervised, features=cfg.features, layer=None))
    if cfg.frame != "words":
        return task

    def features(rows: int, length: int, masking: MaskingConfig | None) -> Features:
        plain = plain_features(rows, length, masking)
        return {**plain, "characters": jax.ShapeDtypeStruct((*plain["tokens"].shape, CHARACTERS), np.int32)}

    plain_features = task.features
    return replace(task, features=features)
