"""The reward model on judged summaries, from the GPT-2 of tldr_sft.py: which of two summaries is preferred?

Command:   python run_finetune.py configs/chatgpt/tldr_reward.py --init-from runs/tldr_sft/best
Data:      the 800 pairs of ../shared/data/tldr_judged, a model's summary and a person's, a tenth held out; a language
           model was the judge. People judged 92,858 in the whole set
Recipe:    Stiennon et al.'s, as in reward.py
Hardware:  one GPU of 16 GB, by its sizes; not measured
Published: accuracy about 63 (Huang et al. 2024, Pythia of 1 billion, the whole set); none for GPT-2 small
Result:    not measured
"""

from dataclasses import replace

from configs.chatgpt.reward import config as reward
from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import data_folder
from lmjax.tasks.reward import RewardConfig


def config() -> FinetuneConfig:
    return replace(
        reward(),
        directory="runs/chatgpt/tldr_reward",
        task=RewardConfig(data="tldr", folder=data_folder("tldr_judged"), heldout_share=0.1),
        length=576,
    )
