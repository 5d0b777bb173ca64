"""GPT-2 medium, 355M parameters: the recipe of `gpt2_small.py`; the learning rate, too, is ours.

Command:   python run_pretrain.py configs/gpt2_medium.py
Hardware:  not run here.
Published: WikiText-103 zero-shot perplexity 26.37, LAMBADA 15.60 (Radford et al. 2019, Table 3).
"""

from configs.gpt2_small import config as gpt2
from lmjax.run import RunConfig


def config() -> RunConfig:
    return gpt2("gpt2-medium", peak_lr=3e-4, micro_batches=4)
