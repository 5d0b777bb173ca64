"""GPT-2 learns to follow Alpaca's instructions: the first step of the ChatGPT recipe (Ouyang et al. 2022, section 3.5).

Command:   python run_finetune.py configs/chatgpt/sft.py --init-from MODEL
           (MODEL: GPT-2 from Hugging Face, or a run of configs/gpt2_small.py)
           python -m lmjax chat runs/alpaca_sft/best
Hardware:  one GPU or TPU chip for GPT-2 small
Recipe:    Stanford Alpaca's (3 epochs, rate 2e-5, cosine, 3% warm-up, about 128 examples a batch). InstructGPT's
           baseline: --epochs 16 --dropout 0.2 --warmup 0 --optim.peak-lr 9.65e-6 --optim.end-factor 0.1
Data:      4,500 of Stanford's 52,002 instructions, of the sample that ../shared/data has; the whole file:
           --task.folder DIR --task.train alpaca_data.json
Result:    not measured
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import instructions


def config() -> FinetuneConfig:
    return instructions("alpaca", "alpaca", files={"train": "alpaca_train.json"})
