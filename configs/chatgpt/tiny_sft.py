"""The small GPT-2 of configs/tiny/gpt2.py on Alpaca's instructions.

Command:   python run_pretrain.py configs/tiny/gpt2.py
           python run_finetune.py configs/chatgpt/tiny_sft.py --init-from runs/tiny_gpt2
           python -m lmjax chat runs/tiny_sft/best
Data:      the 4,499 instructions of ../shared/data/alpaca, 225 held out, of which 220 fit into 128 tokens
Hardware:  one core of an AMD EPYC, jax 0.10.2; 5 minutes
Result:    from a gpt2_files run of 1000 steps on 23 MB of English (docs/chatgpt.md): held-out response loss 4.470
           ± 0.041 (standard error), perplexity 87.4, accuracy 0.226; the frequencies of tokens alone give 6.780 and
           0.033. Its answers have the form of an answer, and no sense
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
