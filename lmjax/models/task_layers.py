"""The layer of a fine-tuned task in Hugging Face's directories: BertForSequenceClassification and its like.

Here it lies beside the backbone's parameters, under the same names (see `wrapped`). A class with more than that, as
RoBERTa's classifier with its own pooler, says in its `Architecture` which of its tensors are the backbone's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from lmjax.errors import UserError
from lmjax.models.weights import Weight

LAYERS = {  # what Hugging Face's classes are called behind the family's name, and their layer
    "ForSequenceClassification": "classifier",
    "ForMultipleChoice": "classifier",
    "ForTokenClassification": "classifier",
    "ForQuestionAnswering": "qa_outputs",
}
ALIKE: Mapping[str, Mapping[str, str]] = {hf_class: {} for hf_class in LAYERS}  # a family whose classes have no more
LABELLED = ("ForSequenceClassification", "ForTokenClassification")


@dataclass(frozen=True)
class TaskLayer:
    """`hf_class`: one of LAYERS. `labels`: the names of its outputs in their order; () where they have none."""

    hf_class: str
    labels: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return LAYERS[self.hf_class]

    def weights(self) -> list[Weight]:
        return [
            Weight(f"{self.name}.weight", (f"{self.name}/kernel",), "linear"),
            Weight(f"{self.name}.bias", (f"{self.name}/bias",), "vector"),
        ]

    def abstract(self, hidden_size: int, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The layer's parameters in the tree, as large as its bias in a file says."""
        shape = (np.size(tensors.get(f"{self.name}.bias", 0)),)
        kernel, bias = (jax.ShapeDtypeStruct(s, np.float32) for s in ((hidden_size, *shape), shape))
        return {self.name: {"kernel": kernel, "bias": bias}}


def to_hf(layer: TaskLayer, content: Mapping[str, Any]) -> dict[str, Any]:
    """A backbone's config.json, for the class that has the layer too."""
    family = re.sub(r"(Model|For[A-Z]\w*)$", "", content["architectures"][0])
    found = {**content, "architectures": [family + layer.hf_class]}
    if layer.hf_class not in LABELLED:
        return found
    if layer.hf_class == "ForSequenceClassification":
        found["problem_type"] = "single_label_classification" if layer.labels else "regression"
    labels = layer.labels or ("LABEL_0",)
    return found | {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


def from_hf(content: Mapping[str, Any]) -> TaskLayer | None:
    """The layer of the class that a config.json names, if that has one. Raises UserError for labels of another form."""
    name = str((content.get("architectures") or [""])[0])
    hf_class = next((hf_class for hf_class in LAYERS if name.endswith(hf_class)), None)
    if hf_class is None:
        return None
    try:
        labels = {int(number): str(label) for number, label in (content.get("id2label") or {}).items()}
    except (AttributeError, ValueError):
        raise UserError("config.json: id2label is no table of numbers and labels") from None
    named = hf_class in LABELLED and not all(re.fullmatch(r"LABEL_\d+", label) for label in labels.values())
    return TaskLayer(hf_class, tuple(labels[number] for number in sorted(labels)) if named else ())


def renamed(tensors: Mapping[str, np.ndarray], names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Tensors of each of `names` (module: the name that it gets), in place of what is called so already: old files have
    RoBERTa's pooler beside the classifier that does without it."""
    kept, moved = {}, {}
    for name, tensor in tensors.items():
        module, _, last = name.rpartition(".")
        if module in names:
            moved[f"{names[module]}.{last}"] = tensor
        else:
            kept[name] = tensor
    return kept | moved


def outputs_in_order(theirs: TaskLayer | None, ours: TaskLayer | None) -> list[int] | slice | None:
    """Which outputs of a trained layer are those of a task's, or None where it is another task's layer. Layers are the
    same if their class and labels are; labels without names are taken in their order."""
    if theirs is None or ours is None or theirs.hf_class != ours.hf_class:
        return None
    if not theirs.labels or theirs.labels == ours.labels:
        return slice(None)
    return [theirs.labels.index(label) for label in ours.labels] if set(theirs.labels) == set(ours.labels) else None
