"""Small run directories as the training loop leaves them, with random parameters, and the text that they know."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import TextFiles
from lmjax.data.tokenizers import Tokenizer, TokenizerConfig, make_tokenizer
from lmjax.interop import LanguageModel
from lmjax.models import MODELS
from lmjax.models.architecture import ModelConfig, portable
from lmjax.parallel import make_mesh
from lmjax.run import RunConfig
from lmjax.tasks import make_task
from lmjax.tasks.bilm import BilmConfig
from lmjax.tasks.pretraining import ClmConfig, MlmConfig
from lmjax.tasks.translation import TranslationConfig
from lmjax.train import assemble
from lmjax.train.checkpoint import Checkpoints
from lmjax.types import TrainState
from tests.models.tiny import CONVERTIBLE, RECURRENT, SHAPES, noisy

SENTENCES = [
    "The dog barked at the old postman, and the postman ran away.",
    "A river bank is no place for a bank clerk, said the clerk.",
    "Seventeen unbelievable elephants walked slowly into the river.",
    "Nobody knows why the elephants and the dog became friends.",
]
TEXTS = [SENTENCES[0], "The dog", SENTENCES[3][:30]]
SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
ATTENTION = {"num_attention_heads": 4, "max_position_embeddings": 64}


def tiny_tokenizer(kind: str) -> Tokenizer:
    """Trained on SENTENCES, "wordpiece", "byte_bpe", "roberta_bpe", "bpe", "sentencepiece" or "words"."""
    size = {"byte_bpe": 320, "roberta_bpe": 320, "words": 30}.get(kind, 90)
    return make_tokenizer(TokenizerConfig(kind, size), SENTENCES * 3)  # type: ignore[arg-type]


RUNS = {  # family: its tokenizer and its task
    "bert": ("wordpiece", MlmConfig()),
    "elmo": ("words", BilmConfig()),
    "ernie": ("wordpiece", MlmConfig(true_label=1)),
    "gpt2": ("byte_bpe", ClmConfig()),
    "marian": ("sentencepiece", TranslationConfig()),
    "openai-gpt": ("bpe", ClmConfig()),
    "roberta": ("roberta_bpe", MlmConfig(input_format="full_sentences", next_sentence=False)),
}


def write_run(family: str, directory: Path, **changes: Any) -> RunConfig:
    """Steps 1 and 2 of a model that Hugging Face has, of which step 1 was best."""
    kind, task = RUNS[family]
    tokenizer = tiny_tokenizer(kind)
    shape = SHAPE | ({} if family in RECURRENT else ATTENTION) | SHAPES.get(family, {}) | CONVERTIBLE.get(family, {})
    cfg = MODELS[family].config(vocab_size=tokenizer.vocab_size, **shape | changes)
    return _write(directory, cfg, task, tokenizer)


def _write(directory: Path, model: ModelConfig, task: Any, tokenizer: Tokenizer) -> RunConfig:
    data = DataConfig("no_store", TextFiles(("no_text",)), TokenizerConfig("file", path="no_vocabulary"))
    stages = (Stage(until_step=2, batch_size=2, length=16),)
    cfg = RunConfig(directory=str(directory), model=model, task=task, data=(WeightedData(data),), stages=stages)
    params = jax.tree.map(jnp.asarray, noisy(portable(model), make_task(task).heads))
    best = {"step": jnp.asarray(1, jnp.int32), "loss": jnp.asarray(1.0)}
    with Checkpoints(directory, cfg.checkpoint, cfg) as checkpoints:
        for step in (1, 2):
            state = TrainState(jnp.asarray(step, jnp.int32), params, {}, jax.random.key(0), {"best": best})
            checkpoints.save(state, wait=True)
            params = jax.tree.map(lambda x: 1.5 * x, params)
    tokenizer.save(directory / "tokenizer")
    return cfg


def on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test take one device, whose speed is not measured."""
    monkeypatch.setattr(assemble, "make_mesh", partial(make_mesh, devices=jax.devices()[:1]))
    monkeypatch.setattr("lmjax.train.loop.peak_flops", lambda dtype: (1e9, "not measured"))


def same_outputs(a: LanguageModel, b: LanguageModel, names: list[str] | None = None) -> None:
    """Asserts that two models agree on TEXTS bit for bit, in all outputs or in those named."""
    features = a.encode(TEXTS)
    a, b = a(**features), b(**features)
    assert set(a) == set(b) or names
    for name in names or a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
