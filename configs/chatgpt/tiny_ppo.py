"""PPO on the short prompts of hh-rlhf, from the small GPT-2 of tiny_sft.py and against tiny_reward.py's reward model.

Command:   python run_finetune.py configs/chatgpt/tiny_ppo.py
           python -m lmjax chat runs/tiny_ppo
Data:      522 of the 1,700 dialogues of ../shared/data/hh_rlhf_harmless, whose prompts fit into 64 tokens
Hardware:  one core of an AMD EPYC, jax 0.10.2; 8 minutes
Result:    the reward model's score from 0.01 to 2.30 at 10.5 nats from the tuned model, answers from 25 tokens to 4:
           "1." pleases a reward model that is right in 58 of 100 pairs. Over-optimisation, not help: a larger
           kl.coefficient or fewer iterations keep to sentences
"""

from lmjax.recipes import data_folder
from lmjax.rlhf.advantages import KlConfig
from lmjax.rlhf.config import PpoConfig
from lmjax.rlhf.rollout import RolloutConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.optim import OptimConfig


def config() -> PpoConfig:
    return PpoConfig(
        directory="runs/tiny_ppo",
        init_from="runs/tiny_sft/best",
        reward_model="runs/tiny_reward",
        prompts=data_folder("hh_rlhf_harmless", "train.jsonl.gz"),
        long_prompts="drop",
        rollout=RolloutConfig(prompt_length=64, response_length=32, temperature=0.7),
        kl=KlConfig(coefficient=0.05),
        iterations=60,
        batch_size=64,
        optim=OptimConfig(peak_lr=1e-4, warmup=3, eps=1e-5, weight_decay=0.0, clip_norm=1.0),
        frozen_dtype="float32",
        checkpoint=CheckpointConfig(every=20),
    )
