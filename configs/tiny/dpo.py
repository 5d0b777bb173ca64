"""Direct preference optimisation on the English pairs of dpo_demo, from a small GPT-2; minutes on a CPU.

Command:   python run_finetune.py configs/tiny/dpo.py --init-from runs/tiny_gpt2

It begins with the pretrained model, whose conversations are plain text; of a tuned one, add --task.template ''.
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
        task=DpoConfig(
            data="pairs", folder=data_folder("dpo_demo"), train="dpo_en.json", heldout_share=0.2, template="plain"
        ),
        positions="extend",
        length=512,
        batch_size=16,
        micro_batches=2,
        epochs=3.0,
        evaluate_each=1.0,
        optim=replace(cfg.optim, peak_lr=1e-4),
        checkpoint=CheckpointConfig(every=100, keep=1),
    )
