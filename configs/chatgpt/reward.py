"""The reward model on hh-rlhf's harmless pairs, from a tuned GPT-2: which of two answers do people prefer?

Command:   python run_finetune.py configs/chatgpt/reward.py --init-from runs/alpaca_sft/best
           (the official files: --task.folder hh-rlhf/harmless-base --task.heldout test.jsonl)
           (rankings of your own: --task.data rankings --task.folder mine --task.train choices.jsonl --task.heldout ''
           --task.heldout-share 0.1 --task.candidates 4)
Data:      the 1,698 pairs of ../shared/data/hh_rlhf_harmless, 182 held out
Recipe:    InstructGPT's: one epoch, batches of 64 prompts, cosine decay to a tenth, no dropout; its rate of 9e-6 is of
           6 billion parameters, here Stiennon et al.'s 1.5e-5 for their smallest model, of 1.3 billion
Hardware:  one GPU of 16 GB, by its sizes; not measured
Published: accuracy 72.4 ± 0.4 (InstructGPT, 6 billion parameters, its own data); none for GPT-2 small here
Result:    not measured
"""

from lmjax.finetuning import FinetuneConfig
from lmjax.recipes import data_folder
from lmjax.tasks.reward import RewardConfig
from lmjax.train.optim import OptimConfig


def config() -> FinetuneConfig:
    return FinetuneConfig(
        directory="runs/chatgpt/reward",
        task=RewardConfig(data="hh_rlhf", folder=data_folder("hh_rlhf_harmless"), heldout="dev"),
        length=1024,  # as long as ppo.py's prompts with their answers
        batch_size=64,
        micro_batches=16,
        epochs=1.0,
        warmup=0.0,
        evaluate_each=0.25,
        dropout=0.0,
        optim=OptimConfig(peak_lr=1.5e-5, eps=1e-8, weight_decay=0.0, decay="cosine", end_factor=0.1),
    )
