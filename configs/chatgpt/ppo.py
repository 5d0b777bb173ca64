"""The third step of the ChatGPT recipe on GPT-2 small: PPO-ptx against a reward model (Ouyang et al. 2022, C.4).

Command:   python run_finetune.py configs/chatgpt/ppo.py --init-from runs/sft --reward-model runs/reward \\
           --prompts prompts.jsonl
Recipe:    KL coefficient 0.02, batches of 512 answers in 8 minibatches, one epoch, constant rate after 10 iterations of
           warm-up, a network for values from the reward model, pretraining text at 27.8. Their rate for the policy is
           not reported (they swept 2.55e-6 to 2.55e-5); lambda, clipping of values and whitening are Ziegler et al.'s
Hardware:  one accelerator with 24 GB: 36 bytes a parameter, about 4.5 GB, and the rest for activations (not measured)
Published: no figure for a model of this size
Result:    not measured
"""

from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.sources import Docs
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.rlhf.advantages import KlConfig, ShapingConfig
from lmjax.rlhf.config import PpoConfig, PretrainingConfig
from lmjax.rlhf.rollout import RolloutConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.optim import OptimConfig


def config() -> PpoConfig:
    text = DataConfig("stores/docs_gpt2", Docs(), TokenizerConfig("file", path="runs/sft/tokenizer"))
    return PpoConfig(
        directory="runs/ppo",
        init_from="runs/sft",
        reward_model="runs/reward",
        prompts="prompts.jsonl",
        rollout=RolloutConfig(prompt_length=512, response_length=128),
        shaping=ShapingConfig(missing_eos="replace"),
        kl=KlConfig(coefficient=0.02),
        pretraining=PretrainingConfig(coefficient=27.8, data=(WeightedData(text),), rows=8, length=256),
        iterations=500,  # 256,000 answers
        batch_size=512,
        minibatches=8,
        micro_batches=4,
        epochs=1,
        value="network",
        optim=OptimConfig(
            peak_lr=9e-6, b2=0.95, eps=1e-8, weight_decay=0.0, clip_norm=0.0, decay="constant", warmup=10
        ),
        dtype="bfloat16",
        checkpoint=CheckpointConfig(every=50),
    )
