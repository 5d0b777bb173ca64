"""A reward model on hh-rlhf's harmless pairs, from a small GPT-2; minutes on a CPU.

Command:   python run_finetune.py configs/tiny/reward.py --init-from runs/tiny_gpt2

It begins with the pretrained model, whose conversations are plain text; of a tuned one, add --task.template ''.
"""

from dataclasses import replace

from configs.chatgpt.reward import config as reward
from lmjax.finetuning import FinetuneConfig
from lmjax.train.checkpoint import CheckpointConfig


def config() -> FinetuneConfig:
    cfg = reward()
    return replace(
        cfg,
        directory="runs/tiny_reward",
        task=replace(cfg.task, template="plain"),
        positions="extend",
        length=256,
        batch_size=32,
        micro_batches=1,
        epochs=3.0,
        evaluate_each=0.5,
        optim=replace(cfg.optim, peak_lr=3e-4),
        checkpoint=CheckpointConfig(every=100, keep=1),
    )
