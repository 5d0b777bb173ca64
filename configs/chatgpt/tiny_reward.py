"""A reward model on hh-rlhf's harmless pairs, from the small GPT-2 of tiny_sft.py.

Command:   python run_finetune.py configs/chatgpt/tiny_reward.py --init-from runs/tiny_sft/best

It may as well begin with a model that was not tuned: --init-from runs/tiny_gpt2 --task.template plain
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
        positions="extend",
        length=256,
        batch_size=32,
        micro_batches=1,
        epochs=3.0,
        evaluate_each=0.5,
        optim=replace(cfg.optim, peak_lr=3e-4),
        checkpoint=CheckpointConfig(every=100, keep=1),
    )
