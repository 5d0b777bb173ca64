"""GPT-2 xl, 1558M parameters: the recipe of `gpt2_small.py`; the learning rate, too, is ours.

Command:   python run_pretrain.py configs/gpt2_xl.py
Hardware:  not run here.
Published: WikiText-103 zero-shot perplexity 17.48, LAMBADA 8.63 (Radford et al. 2019, Table 3).
"""

from configs.gpt2_small import config as gpt2
from lmjax.run import RunConfig


def config() -> RunConfig:
    return gpt2("gpt2-xl", peak_lr=2e-4, micro_batches=16)
