"""A reward model on hh-rlhf's harmless pairs, from the small GPT-2 of tiny_sft.py.

Command:   python run_finetune.py configs/chatgpt/tiny_reward.py --init-from runs/tiny_sft/best

Data:      the 1,698 pairs of ../shared/data/hh_rlhf_harmless and 182 held out; 1,378 and 149 fit into 256 tokens
Hardware:  one core of an AMD EPYC, jax 0.10.2; 4 minutes
Result:    from the tiny_sft run: held-out accuracy 0.584 ± 0.040 (standard error; the last of six evaluations, from
           0.497), where the longer answer gives 0.456; calibration error 0.16, as it knows the training pairs by heart

It may as well begin with a model that was not tuned: --init-from runs/tiny_gpt2 --task.template plain
"""

from dataclasses import replace

from configs.chatgpt.reward import config as reward
from lmjax.finetuning import FinetuneConfig
from lmjax.train.checkpoint import CheckpointConfig


def config() -> FinetuneConfig:
    cfg = reward()
    return replace(
        cfg,
        directory="runs/tiny_reward",
        positions="extend",
        length=256,
        batch_size=32,
        micro_batches=1,
        epochs=3.0,
        evaluate_each=0.5,
        optim=replace(cfg.optim, peak_lr=3e-4),
        checkpoint=CheckpointConfig(every=100, keep=1),
    )
