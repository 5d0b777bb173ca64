"""Direct preference optimisation on hh-rlhf's harmless pairs, from a tuned GPT-2, which is its own reference.

Command:   python run_finetune.py configs/chatgpt/dpo.py --init-from runs/alpaca_sft/best
           (the official files: --task.folder hh-rlhf/harmless-base --task.heldout test.jsonl)
Data:      as of reward.py
Recipe:    Rafailov et al. 2023, appendix B: beta 0.1, batches of 64, rate 1e-6 after 150 steps of warm-up, here a tenth
           of the steps, as there are few; AdamW in place of RMSprop, no dropout
Hardware:  one GPU of 16 GB, by its sizes; not measured
Published: none for GPT-2 small
Result:    not measured
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import data_folder
from lmjax.tasks.dpo import DpoConfig
from lmjax.train.optim import OptimConfig


def config() -> FinetuneConfig:
    return FinetuneConfig(
        directory="runs/chatgpt/dpo",
        task=DpoConfig(data="hh_rlhf", folder=data_folder("hh_rlhf_harmless"), heldout="dev", beta=0.1),
        length=512,
        batch_size=64,
        micro_batches=8,
        epochs=1.0,
        evaluate_each=0.25,
        dropout=0.0,
        optim=OptimConfig(peak_lr=1e-6, eps=1e-8, weight_decay=0.0, decay="constant"),
    )
