"""GPT-3, 175B: the recipe of `gpt3_small.py`, 3.2M tokens a batch (1,568 rows), reached after 12 billion.

Command:   python run_pretrain.py configs/gpt3_175b.py --mesh.fsdp 16 --mesh.tensor 8
Hardware:  3,640 PF-days on V100s in the paper (Table D.1). Not run here.
Published: LAMBADA zero-shot accuracy 76.2, perplexity 3.00 (Brown et al. 2020, Table H.1).
"""

from configs.gpt3_small import config as gpt3
from lmjax.run import RunConfig


def config() -> RunConfig:
    return gpt3("gpt3-175b", peak_lr=6e-5, rows=1568, ramp_tokens=12_000_000_000)
