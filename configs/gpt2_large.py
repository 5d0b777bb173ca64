"""GPT-2 large, 774M parameters: the recipe of `gpt2_small.py`; the learning rate, too, is ours.

Command:   python run_pretrain.py configs/gpt2_large.py
Hardware:  not run here.
Published: WikiText-103 zero-shot perplexity 22.05, LAMBADA 10.87 (Radford et al. 2019, Table 3).
"""

from configs.gpt2_small import config as gpt2
from lmjax.run import RunConfig


def config() -> RunConfig:
    return gpt2("gpt2-large", peak_lr=2.5e-4, micro_batches=8)
