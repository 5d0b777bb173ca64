"""GPT-3 13B: the recipe of `gpt3_small.py`, 2M tokens a batch, reached after 8 billion (ours: the paper says 4 to 12).

Command:   python run_pretrain.py configs/gpt3_13b.py --mesh.fsdp 16
Hardware:  268 PF-days on V100s in the paper (Table D.1). Not run here.
Published: LAMBADA zero-shot accuracy 72.5, perplexity 3.56 (Brown et al. 2020, Table H.1).
"""

from configs.gpt3_small import config as gpt3
from lmjax.run import RunConfig


def config() -> RunConfig:
    return gpt3("gpt3-13b", peak_lr=1e-4, rows=1024, ramp_tokens=8_000_000_000)
