"""The small GPT-2 of configs/tiny/gpt2.py on Alpaca's instructions.

Command:   python run_pretrain.py configs/tiny/gpt2.py
           python run_finetune.py configs/chatgpt/tiny_sft.py --init-from runs/tiny_gpt2
           python -m lmjax chat runs/tiny_sft/best
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import instructions
from lmjax.train.optim import OptimConfig


def config() -> FinetuneConfig:
    return instructions(
        "alpaca",
        "alpaca",
        files={"train": "alpaca_train.json", "template": "plain"},
        directory="runs/tiny_sft",
        length=128,
        optim=OptimConfig(peak_lr=1e-3, b2=0.95, decay="cosine"),
    )
