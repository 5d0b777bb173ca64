"""Fine-tuned models in Hugging Face's directories: each class of BERT, RoBERTa and ERNIE, there and back."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file, save_file

from lmjax.errors import UserError
from lmjax.interop import LanguageModel, load
from lmjax.models import MODELS
from lmjax.models.huggingface import read_model
from lmjax.models.task_layers import TaskLayer, outputs_in_order
from lmjax.models.weights import flatten
from lmjax.models.wrapped import init_wrapped, wrap
from lmjax.tasks import make_task
from lmjax.tasks.choice import ChoiceConfig
from lmjax.tasks.classification import ClassificationConfig
from lmjax.tasks.spans import SpanConfig
from lmjax.tasks.tagging import TaggingConfig
from tests.models.tiny import VOCAB, tiny

PEER = Path(__file__).parents[1] / "golden" / "task_layers.py"
TASKS = {
    "ForSequenceClassification": ClassificationConfig(data="mnli"),
    "ForTokenClassification": TaggingConfig(data="conll2003"),
    "ForMultipleChoice": ChoiceConfig(data="codah"),
    "ForQuestionAnswering": SpanConfig(data="squad2"),
}
FAMILIES = {"bert": "Bert", "roberta": "Roberta", "ernie": "Ernie"}
CASES = [(family, name) for family in FAMILIES for name in TASKS]
TEXT = {"tokens": "input_ids", "segment_ids": "attention_mask", "token_type_ids": "token_type_ids"}


def fine_tuned(family: str, task: Any) -> tuple[Any, LanguageModel]:
    """A task on a tiny model, whose parameters are random."""
    architecture, cfg, heads = MODELS[family], tiny(family), task.heads_of(MODELS[family])
    module = wrap(architecture, cfg, heads, task.supervised.read)
    abstract = jax.eval_shape(lambda key: init_wrapped(module, task.features(1, 2, None), key), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), abstract)
    table = params["word_embeddings"]["embedding"]
    table[VOCAB:] = 0
    return module, LanguageModel(cfg, heads, params, None, task.supervised.layer)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_there_and_back(family: str, name: str, tmp_path: Path) -> None:
    """transformers' class, its tensors' names and its labels; and the same parameters again."""
    task = make_task(TASKS[name])
    _, lm = fine_tuned(family, task)
    lm.save_hf(tmp_path / "hf")
    content = json.loads((tmp_path / "hf/config.json").read_text())
    assert content["architectures"] == [FAMILIES[family] + name]
    names = set(load_file(tmp_path / "hf/model.safetensors"))
    layer = "qa_outputs" if name == "ForQuestionAnswering" else "classifier"
    pooled = name in ("ForSequenceClassification", "ForMultipleChoice")
    own = {layer} | ({f"{family}.pooler.dense"} if pooled else set())
    if (family, name) == ("roberta", "ForSequenceClassification"):
        own = {"classifier.dense", "classifier.out_proj"}
    outside = {n.rpartition(".")[0] for n in names if not n.startswith((f"{family}.emb", f"{family}.enc"))}
    assert outside == own
    if lm.layer and lm.layer.labels:
        assert [content["id2label"][str(i)] for i in range(len(lm.layer.labels))] == list(lm.layer.labels)
        assert content["label2id"] == {label: i for i, label in enumerate(lm.layer.labels)}
    back = load(tmp_path / "hf")
    assert (back.layer, back.heads, back.config) == (lm.layer, lm.heads, lm.config)
    assert back.num_params == sum(x.size for x in load_file(tmp_path / "hf/model.safetensors").values())
    mine, theirs = flatten(lm.params), flatten(back.params)
    assert mine.keys() == theirs.keys()
    for path, leaf in mine.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)


def rewritten(folder: Path, change: Mapping[str, Any]) -> epath.Path:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **change}))
    return epath.Path(folder)


def test_scores_have_one_output_and_other_files_are_refused(tmp_path: Path) -> None:
    _, lm = fine_tuned("bert", make_task(ClassificationConfig(data="stsb")))
    lm.save_hf(tmp_path / "hf")
    content = json.loads((tmp_path / "hf/config.json").read_text())
    assert (content["problem_type"], content["id2label"]) == ("regression", {"0": "LABEL_0"})
    assert load(tmp_path / "hf").layer == TaskLayer("ForSequenceClassification")
    with pytest.raises(UserError, match="id2label is no table of numbers and labels"):
        read_model(rewritten(tmp_path / "hf", {"id2label": {"one": "yes"}}))
    tensors = load_file(tmp_path / "hf/model.safetensors")
    save_file({k: x for k, x in tensors.items() if k != "classifier.weight"}, tmp_path / "hf/model.safetensors")
    with pytest.raises(UserError, match=r"tensor classifier\.weight is missing"):
        read_model(rewritten(tmp_path / "hf", {"id2label": {}}))
    gpt2 = {"model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"]}
    with pytest.raises(UserError, match="no place for the layer of GPT2ForSequenceClassification"):
        read_model(rewritten(tmp_path / "hf", gpt2))


def test_the_pooler_of_old_files_gives_way_to_the_classifiers(tmp_path: Path) -> None:
    _, lm = fine_tuned("roberta", make_task(ClassificationConfig(data="mnli")))
    lm.save_hf(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    old = {f"roberta.pooler.dense.{k}": 0 * tensors[f"classifier.dense.{k}"] for k in ("weight", "bias")}
    save_file(old | tensors, tmp_path / "hf/model.safetensors")
    found = read_model(epath.Path(tmp_path / "hf")).params["pooler"]
    np.testing.assert_array_equal(found["kernel"], lm.params["pooler"]["kernel"])


def test_what_hugging_face_has_no_class_for_is_said_to_be_left_out(tmp_path: Path) -> None:
    _, lm = fine_tuned("gpt2", make_task(ClassificationConfig(data="mnli", frame="ordered")))
    with pytest.warns(UserWarning, match="gpt2's classifier has no class of Hugging Face's and is not written"):
        lm.save_hf(tmp_path / "hf")
    assert load(tmp_path / "hf").layer is None
    assert lm.num_params - load(tmp_path / "hf").num_params == 32 * 3 + 3


def test_which_layer_is_a_tasks_own() -> None:
    """The class and the labels decide; labels in another order, as in published models, are put in ours."""
    ours = TaskLayer("ForSequenceClassification", ("a", "b", "c"))
    shuffled = TaskLayer("ForSequenceClassification", ("c", "a", "b"))
    assert outputs_in_order(shuffled, ours) == [1, 2, 0]
    assert outputs_in_order(TaskLayer("ForSequenceClassification"), ours) == slice(None)
    assert outputs_in_order(ours, ours) == slice(None)
    for other in (
        None,
        TaskLayer("ForTokenClassification", ("a", "b", "c")),
        TaskLayer(ours.hf_class, ("a", "x", "c")),
    ):
        assert outputs_in_order(other, ours) is None
    assert outputs_in_order(ours, None) is None


@pytest.mark.parity
def test_transformers_computes_the_same_and_what_it_writes_is_read(run_peer, tmp_path: Path) -> None:
    seed = int(os.environ.get("LMJAX_PARITY_SEED", int.from_bytes(os.urandom(3))))
    print(f"LMJAX_PARITY_SEED={seed} repeats this")
    rng = np.random.default_rng(seed)
    features, ours = {"seed": np.array(seed)}, {}
    for family, name in CASES:
        task, case = make_task(TASKS[name]), f"{family}-{name}"
        module, lm = fine_tuned(family, task)
        lm.save_hf(tmp_path / case)
        batch = {k: np.zeros(v.shape, v.dtype) for k, v in task.features(3, 12, None).items()}
        batch["segment_ids"] = np.broadcast_to(np.arange(12) < [[12], [5], [9]], (3, 12)).astype(np.int32)
        if name == "ForMultipleChoice":
            batch["segment_ids"] = np.repeat(batch["segment_ids"][:, None], 4, 1)
        batch["tokens"] = np.where(batch["segment_ids"], rng.integers(2, VOCAB, batch["tokens"].shape, np.int32), 1)
        types = () if family == "roberta" else ("token_type_ids",)
        batch |= {k: rng.integers(0, 2, batch["tokens"].shape, np.int32) * batch["segment_ids"] for k in types}
        features |= {f"{case}/{TEXT[k]}": batch[k] for k in ("tokens", "segment_ids", *types)}
        run = jax.jit(lambda params, batch, module=module: module.apply({"params": params}, batch))
        ours[case] = (run, lm, batch)
    found = run_peer(PEER, features, *(str(tmp_path / case) for case in ours))
    worst = 0.0
    for case, (run, lm, batch) in ours.items():
        for directory, prefix in ((tmp_path / case, case), (tmp_path / case / "theirs", f"{case}/theirs")):
            read = load(directory)
            assert read.layer
            assert (read.layer, read.heads) == (lm.layer, lm.heads)
            outputs = run(read.params, batch)
            names = {"start_logits": "start_logits", "end_logits": "end_logits"}
            names = names if case.endswith("Answering") else {"class_logits": "logits"}
            for mine, theirs in names.items():
                a, b = np.asarray(outputs[mine]), found[f"{prefix}/{theirs}"]
                if a.shape[:2] == batch["tokens"].shape:  # by tokens: what stands at padding is read by nobody
                    a, b = a[batch["segment_ids"] > 0], b[batch["segment_ids"] > 0]
                worst = max(worst, float(np.abs(a - b).max() / max(1, np.abs(b).max())))
                np.testing.assert_allclose(
                    a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max()), err_msg=f"{prefix} {mine}"
                )
    print(f"logits differ by at most {worst:.1e} of the largest")
