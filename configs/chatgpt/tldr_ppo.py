"""PPO on Reddit posts against the reward model of tldr_reward.py (Stiennon et al. 2020; Huang et al. 2024).

Command:   python run_finetune.py configs/chatgpt/tldr_ppo.py
           (it begins with what tldr_sft.py and tldr_reward.py leave; other ones: --init-from SFT_RUN/best
           --reward-model RUN)
Data:      the 800 posts of ../shared/data/tldr_judged
Recipe:    Huang et al.'s: KL coefficient 0.05, temperature 0.7, answers of 53 tokens, -1 without an end, the score
           behind the end token, batches of 512 in four epochs, rate 3e-6 to zero; a network for values from the reward
           model. A tenth of their million answers, as there are few posts
Hardware:  not measured. By its sizes: 36 bytes a parameter, about 4.5 GB; in a rollout of 128 answers at once 3 GB for
           the cache and 2 for the prompts' scores of attention; 8 GB or more while the reward model scores all 512
           answers; the rest for activations
Published: none for GPT-2 small; of their four runs of Pythia 1 billion two collapsed
Result:    not measured
"""

from lmjax.recipes import data_folder
from lmjax.rlhf.advantages import KlConfig, ShapingConfig
from lmjax.rlhf.config import PpoConfig
from lmjax.rlhf.rollout import RolloutConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.optim import OptimConfig


def config() -> PpoConfig:
    return PpoConfig(
        directory="runs/chatgpt/tldr_ppo",
        init_from="runs/tldr_sft/best",
        reward_model="runs/chatgpt/tldr_reward",
        prompts=data_folder("tldr_judged", "train.csv"),
        rollout=RolloutConfig(prompt_length=528, response_length=53, temperature=0.7, rows=128),
        shaping=ShapingConfig(score_at="after_eos", variance="population"),
        kl=KlConfig(coefficient=0.05),
        iterations=200,
        batch_size=512,
        micro_batches=32,
        value="network",
        optim=OptimConfig(peak_lr=3e-6, eps=1e-5, weight_decay=0.0, clip_norm=0.0),
        dtype="bfloat16",
        checkpoint=CheckpointConfig(every=50),
    )
