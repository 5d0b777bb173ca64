"""Runs small enough to be killed and started again.

BERT crosses a stage boundary, goes through a batch ramp and skips data twice; GPT-2 accumulates and draws from a
mixture. Of twelve steps only: GPT-1, with all of its dropout; GPT-3, with bands, walls, a batch ramp and rates by
tokens; the Transformer, with packed pairs; ELMo, which accumulates and carries its states, and "elmo_stateless";
RoBERTa, with rows of whole sentences; ERNIE, through two units of masking, over pairs and conversations; BERT
fine-tuned on labelled pairs from a Hugging Face directory, with dropout, accumulation and a longer position table; a
biLSTM on a frozen ELMo, on the same pairs; and on the ChatGPT chain "sft", GPT-2 tuned on packed conversations, on
rankings "reward" and "dpo", and "ppo", with an adaptive coefficient and pretraining text mixed in.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lmjax.config import override
from lmjax.data.chinese import Boundaries
from lmjax.data.masking import MaskingConfig
from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.schedule import Stage
from lmjax.data.sources import Dialogues, ParallelText, TextFiles
from lmjax.data.tokenizers import TokenizerConfig, make_tokenizer
from lmjax.finetuning import FinetuneConfig, finetune
from lmjax.interop import LanguageModel
from lmjax.models.bert import BertConfig
from lmjax.models.elmo import ElmoConfig
from lmjax.models.ernie import ErnieConfig
from lmjax.models.features import FeatureConfig
from lmjax.models.gpt import GptConfig
from lmjax.models.gpt1 import Gpt1Config
from lmjax.models.roberta import RobertaConfig
from lmjax.models.transformer import TransformerConfig
from lmjax.rlhf.advantages import KlConfig
from lmjax.rlhf.config import PpoConfig, PretrainingConfig
from lmjax.rlhf.ppo import align
from lmjax.rlhf.rollout import RolloutConfig
from lmjax.run import RunConfig, prepare_data
from lmjax.tasks.bilm import BilmConfig
from lmjax.tasks.classification import ClassificationConfig
from lmjax.tasks.dpo import DpoConfig
from lmjax.tasks.instruction import InstructionConfig
from lmjax.tasks.pretraining import ClmConfig, MlmConfig
from lmjax.tasks.reward import RewardConfig
from lmjax.tasks.translation import TranslationConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluate import EvalConfig
from lmjax.train.log import LogConfig
from lmjax.train.loop import train
from lmjax.train.optim import OptimConfig
from tests.models.tiny import noisy

SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


def write_text(directory: Path, seed: int = 0, documents: int = 60) -> None:
    """A file of made-up documents, a sentence a line, apart by blank lines. The same bytes for the same seed."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("aeioubdklmnrst"), rng.integers(2, 7))) for _ in range(200)]
    lines = [
        "\n".join(" ".join(rng.choice(words, rng.integers(4, 12))) + "." for _ in range(rng.integers(4, 9)))
        for _ in range(documents)
    ]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"text{seed}.txt").write_text("\n\n".join(lines))
    sentences = [line for document in lines for line in document.split("\n")]
    for side, texts in (("source", sentences), ("target", [text[::-1].title() for text in sentences])):
        (directory / f"{side}{seed}.txt").write_text("".join(f"{text}\n" for text in texts))
    roles = ["query", "response"]
    chats = [[{"role": roles[i % 2], "text": line} for i, line in enumerate(d.split("\n"))] for d in lines]
    (directory / "chat.jsonl").write_text("\n".join(json.dumps({"turns": turns}) for turns in chats))


def data(root: Path, kind: str, seed: int, vocab_size: int = 300) -> DataConfig:
    source = TextFiles((str(root / f"text{seed}.txt"),), documents="blank_line")
    tokenizer = TokenizerConfig(kind, vocab_size)  # type: ignore[arg-type]
    return DataConfig(str(root / f"store_{kind}{seed}"), source, tokenizer, heldout=0.2)


def with_tokenizer_of(first: DataConfig, second: DataConfig) -> DataConfig:
    """The second corpus, read with the vocabulary that was trained on the first."""
    return replace(second, tokenizer=replace(first.tokenizer, kind="file", path=f"{first.store}/tokenizer"))


def finetuning(root: Path) -> FinetuneConfig:
    """Three epochs of 32 rows; the model and the files are made where they are not there."""
    if not (root / "pretrained").exists():
        cfg = BertConfig(vocab_size=300, **SHAPE | {"max_position_embeddings": 24})
        tokenizer = make_tokenizer(TokenizerConfig("wordpiece", 300), (root / "text0.txt").read_text().split("\n"))
        LanguageModel(cfg, ("mlm", "nsp"), noisy(cfg, ("mlm", "nsp")), tokenizer).save_hf(root / "pretrained")
    lines = [line for line in (root / "text0.txt").read_text().split("\n") if line]
    for name, first, count in (("train", 0, 32), ("dev", 32, 10), ("test", 42, 3)):
        rows = [f"{i}\t{lines[first + i]}\t{lines[i]}" for i in range(count)]
        labels = [""] * count if name == "test" else [f"\t{('not_' * (i % 3 == 0))}entailment" for i in range(count)]
        header = "index\tsentence1\tsentence2" + "\tlabel" * (name != "test")
        text = "\n".join([header, *(row + label for row, label in zip(rows, labels, strict=True)), ""])
        (root / f"{name}.tsv").write_text(text)
    return FinetuneConfig(
        directory=str(root / "finetune"),
        init_from=str(root / "pretrained"),
        positions="extend",
        task=ClassificationConfig(data="rte", folder=str(root)),
        length=32,
        batch_size=8,
        micro_batches=2,
        dropout=0.1,
        optim=OptimConfig(peak_lr=3e-3),
        stores=str(root / "stores"),
        checkpoint=CheckpointConfig(every=5, keep=2),
        log=LogConfig(every=1, tensorboard=False),
    )


def features(root: Path) -> FinetuneConfig:
    """The same rows, read by what stands on a released ELMo."""
    cfg = finetuning(root)
    if not (root / "elmo").exists():
        model = ElmoConfig(vocab_size=100, hidden_size=16, intermediate_size=32, filters=((1, 4), (2, 8)))
        LanguageModel(model, (), noisy(model, ()), None).save_hf(root / "elmo")
    task = replace(cfg.task, features=FeatureConfig("mix", lstm=(6,)))
    return replace(cfg, directory=str(root / "features"), init_from=str(root / "elmo"), task=task)


def sft(root: Path) -> FinetuneConfig:
    """Twelve steps on conversations of two to four turns, from a GPT-2 that has seen nothing."""
    cfg = finetuning(root)
    sentences = [line for line in (root / "text0.txt").read_text().split("\n") if line]
    if not (root / "gpt2").exists():
        tokenizer = make_tokenizer(TokenizerConfig("byte_bpe", 300), sentences)
        model = GptConfig(vocab_size=tokenizer.vocab_size, **SHAPE | {"max_position_embeddings": 160})
        LanguageModel(model, ("clm",), noisy(model, ("clm",)), tokenizer).save_hf(root / "gpt2")
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(sentences[:180])]
    cut = [turns[i : i + size] for i, size in zip(range(0, 180, 4), [2, 4] * 23, strict=False)]
    (root / "train.jsonl").write_text("\n".join(json.dumps({"messages": messages}) for messages in cut))
    return replace(
        cfg,
        directory=str(root / "sft"),
        init_from=str(root / "gpt2"),
        task=InstructionConfig(data="chat", folder=str(root), heldout_share=0.2, template="plain"),
        length=128,
    )


def reward(root: Path) -> FinetuneConfig:
    """Twelve steps of a reward model on prompts with two or three ranked answers, from the same GPT-2."""
    cfg = sft(root)
    lines = [line for line in (root / "text0.txt").read_text().split("\n") if line]
    rows = [
        {
            "turns": [{"role": "user", "text": lines[i]}],
            "answers": (answers := [text[:40] for text in lines[i + 1 : i + 3 + i % 2]]),
            "ranks": [1 + sorted(answers).index(text) for text in answers],
        }
        for i in range(42)
    ]
    (root / "choices.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    files = {"folder": str(root), "train": "choices.jsonl", "heldout_share": 0.2, "template": "plain"}
    task = RewardConfig(data="rankings", candidates=3, **files)
    return replace(cfg, directory=str(root / "reward"), task=task)


def dpo(root: Path) -> FinetuneConfig:
    """The same choices, a row for each pair, without a reward model."""
    cfg = reward(root)
    names = ("data", "folder", "train", "heldout_share", "template")
    task = DpoConfig(**{name: getattr(cfg.task, name) for name in names})
    return replace(cfg, directory=str(root / "dpo"), task=task, epochs=4 / 3)


def ppo(root: Path) -> PpoConfig:
    """Twelve iterations on a GPT-2 made where it is not there."""
    text = data(root, "byte_bpe", 0)
    if not (root / "supervised").exists():
        lines = (root / "text0.txt").read_text().split("\n")
        tokenizer = make_tokenizer(text.tokenizer, lines)
        cfg = GptConfig(vocab_size=tokenizer.vocab_size, **SHAPE)
        LanguageModel(cfg, ("clm",), noisy(cfg, ("clm",)), tokenizer).save_hf(root / "supervised")
        (root / "prompts.jsonl").write_text("".join(f"{json.dumps({'prompt': p[:6]})}\n" for p in lines if p))
    vocabulary = TokenizerConfig("file", path=str(root / "supervised"))
    return PpoConfig(
        directory=str(root / "ppo"),
        init_from=str(root / "supervised"),
        prompts=str(root / "prompts.jsonl"),
        rollout=RolloutConfig(8, 8),
        kl=KlConfig(0.1, target=0.5, horizon=100),
        pretraining=PretrainingConfig(0.5, (WeightedData(replace(text, tokenizer=vocabulary)),), rows=1, length=16),
        iterations=12,
        batch_size=16,
        epochs=2,
        minibatches=2,
        optim=OptimConfig(peak_lr=3e-3, weight_decay=0.0),
        checkpoint=CheckpointConfig(every=5, keep=2),
        log=LogConfig(every=1, tensorboard=False),
    )


def few_high_tokens(tokens: Any, is_response: Any) -> Any:
    """A reward."""
    return 0.01 * jnp.sum(jnp.where(is_response, 150 - tokens, 0), axis=1)


def config(name: str, root: Path) -> RunConfig:
    common = {
        "directory": str(root / name),
        "optim": OptimConfig(peak_lr=3e-3, warmup=10),
        "evaluation": EvalConfig(every=20, rows=16),
        "checkpoint": CheckpointConfig(every=5, keep=2),
        "log": LogConfig(every=1, tensorboard=False),
    }
    if name == "bert":
        return RunConfig(
            model=BertConfig(vocab_size=300, **SHAPE),
            task=MlmConfig(duplicates=2),
            data=(WeightedData(data(root, "wordpiece", 0)),),
            stages=(
                Stage(until_step=30, batch_size=8, length=16, micro_batches=4, ramp_from=2),
                Stage(until_step=60, batch_size=8, length=32),
            ),
            skips=((12, 3), (41, 2)),
            **common,
        )
    if name == "ernie":
        masking = [MaskingConfig(u, selection="ernie", max_predictions=0) for u in ("token", "entity")]
        pairs = replace(data(root, "wordpiece", 0), boundaries=Boundaries())
        turns = DataConfig(
            str(root / "store_turns"), Dialogues((str(root / "chat.jsonl"),)), pairs.tokenizer, heldout=0.2
        )
        return RunConfig(
            model=ErnieConfig(vocab_size=300, type_vocab_size=4, **SHAPE),
            task=MlmConfig(duplicates=1, true_label=1, masking=masking[0]),
            data=(WeightedData(pairs), WeightedData(with_tokenizer_of(pairs, turns))),
            stages=tuple(Stage(6 * k, batch_size=8, length=32, masking=m) for k, m in enumerate(masking, 1)),
            **common,
        )
    if name == "roberta":
        masking = MaskingConfig(selection="roberta", max_predictions=0, random_from=4)
        return RunConfig(
            model=RobertaConfig(vocab_size=300, **SHAPE),
            task=MlmConfig(input_format="full_sentences", next_sentence=False, masking=masking),
            data=(WeightedData(data(root, "roberta_bpe", 0)),),
            stages=(Stage(until_step=12, batch_size=8, length=32),),
            **common,
        )
    if name == "transformer":
        source = ParallelText(str(root / "source0.txt"), str(root / "target0.txt"))
        return RunConfig(
            model=TransformerConfig(vocab_size=120, **SHAPE),
            task=TranslationConfig(),
            data=(WeightedData(replace(data(root, "sentencepiece", 0, 120), source=source)),),
            stages=(Stage(until_step=12, batch_size=4, length=64),),
            **common,
        )
    if name == "gpt1":
        return RunConfig(
            model=Gpt1Config(vocab_size=300, **SHAPE),
            task=ClmConfig(),
            data=(WeightedData(data(root, "bpe", 0)),),
            stages=(Stage(until_step=12, batch_size=8, length=16),),
            **common,
        )
    if name == "gpt3":
        tokens = {"unit": "tokens", "warmup": 256, "total": 1000, "decay": "cosine", "end_factor": 0.1}
        return RunConfig(
            model=GptConfig(vocab_size=300, window=5, **SHAPE),
            task=ClmConfig(document_walls=True),
            data=(WeightedData(data(root, "byte_bpe", 0)),),
            stages=(
                Stage(until_step=8, batch_size=8, length=16, micro_batches=4, ramp_from=2),
                Stage(until_step=12, batch_size=8, length=16, micro_batches=4),
            ),
            **common | {"optim": OptimConfig(peak_lr=3e-3, **tokens)},
        )
    if name.startswith("elmo"):
        return RunConfig(
            model=ElmoConfig(
                vocab_size=150,
                hidden_size=16,
                intermediate_size=32,
                character_size=4,
                filters=((1, 4), (2, 8)),
                num_highways=1,
            ),
            task=BilmConfig(carry=name == "elmo", negatives=20),
            data=(WeightedData(data(root, "words", 0, 150)),),
            stages=(Stage(until_step=12, batch_size=8, length=6, micro_batches=2),),
            skips=((7, 2),),
            **common | {"optim": OptimConfig("adagrad", peak_lr=0.2, weight_decay=0.0, decay="constant")},
        )
    return RunConfig(
        model=GptConfig(vocab_size=300, **SHAPE),
        task=ClmConfig(),
        data=(
            WeightedData(data(root, "byte_bpe", 0), 0.7),
            WeightedData(with_tokenizer_of(data(root, "byte_bpe", 0), data(root, "byte_bpe", 1)), 0.3),
        ),
        stages=(Stage(until_step=60, batch_size=8, length=16, micro_batches=2),),
        **common,
    )


FINETUNING = {"finetune": finetuning, "features": features, "sft": sft, "reward": reward, "dpo": dpo}


def run(name: str, root: Path, *overrides: str) -> None:
    """What the command does for the recipe `name`."""
    if name in FINETUNING:
        finetune(override(FINETUNING[name](root), overrides, "tiny.py"))
    elif name == "ppo":
        align(override(ppo(root), overrides, "tiny.py"), few_high_tokens)
    else:
        cfg = override(config(name, root), overrides, "tiny.py")
        prepare_data(cfg)
        train(cfg)
