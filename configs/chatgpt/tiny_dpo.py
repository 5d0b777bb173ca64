"""Direct preference optimisation on the English pairs of dpo_demo, from the small GPT-2 of tiny_sft.py.

Command:   python run_finetune.py configs/chatgpt/tiny_dpo.py --init-from runs/tiny_sft/best

It may as well begin with a model that was not tuned: --init-from runs/tiny_gpt2 --task.template plain
"""

from dataclasses import replace

from configs.chatgpt.dpo import config as dpo
from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import data_folder
from lmjax.tasks.dpo import DpoConfig
from lmjax.train.checkpoint import CheckpointConfig


def config() -> FinetuneConfig:
    cfg = dpo()
    return replace(
        cfg,
        directory="runs/tiny_dpo",
        task=DpoConfig(data="pairs", folder=data_folder("dpo_demo"), train="dpo_en.json", heldout_share=0.2),
        positions="extend",
        length=512,
        batch_size=16,
        micro_batches=2,
        epochs=3.0,
        evaluate_each=1.0,
        optim=replace(cfg.optim, peak_lr=1e-4),
        checkpoint=CheckpointConfig(every=100, keep=1),
    )
