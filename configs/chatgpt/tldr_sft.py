"""GPT-2 learns to summarise Reddit posts as people do (Stiennon et al. 2020, appendix B.1).

Command:   python run_finetune.py configs/chatgpt/tldr_sft.py --init-from MODEL
           (MODEL: GPT-2 from Hugging Face, or a run of configs/gpt2_small.py)
           python -m lmjax chat runs/tldr_sft/best
Data:      the posts and reference summaries of ../shared/data/tldr_judged, 800 rows, a twentieth held out; the whole
           set has 116,722
Recipe:    Stiennon et al.'s: one epoch along a cosine, rate 6.35e-5 (of their smallest model, 1.3 billion); batches of
           32 for their 128, as there are few rows
Hardware:  one GPU or TPU chip, by its sizes; not measured
Result:    not measured
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import instructions
from lmjax.train.optim import OptimConfig


def config() -> FinetuneConfig:
    return instructions(
        "tldr",
        "tldr_judged",
        files={"train": "train.csv", "template": "plain"},
        length=576,
        micro_batches=2,
        epochs=1.0,
        optim=OptimConfig(peak_lr=6.35e-5, weight_decay=0.0, decay="cosine"),
    )
