"""The third step of the ChatGPT recipe on GPT-2 small: PPO-ptx against a reward model (Ouyang et al. 2022, C.4).

Command:   python run_finetune.py configs/chatgpt/ppo.py
           (it begins with what sft.py and reward.py leave; other ones: --init-from SFT_RUN/best --reward-model RUN, and
           their tokenizer for the text: --pretraining.data.0.data.tokenizer.path SFT_RUN/tokenizer)
Data:      the prompts of the 1,700 dialogues of ../shared/data/hh_rlhf_harmless, of 890 tokens at most
Recipe:    KL coefficient 0.02, batches of 512 answers in 8 minibatches, one epoch, constant rate after 10 iterations of
           warm-up, a network for values from the reward model, pretraining text at 27.8. Their rate for the policy is
           not reported (they swept 2.55e-6 to 2.55e-5); here policy and values share that of their values, and there
           is no moving average of the weights (theirs: 0.992). What they do not state: lambda and the clipping of
           values are Ziegler et al.'s, advantages are whitened as in trl
Hardware:  not measured. By its sizes: 36 bytes a parameter, about 4.5 GB; in a rollout of 128 answers at once 5 GB for
           the cache and as much for the prompts' scores of attention; 26 GB or more while the reward model scores all
           answers; about 30 GB for the activations of an update (--remat full, or more micro_batches, take less)
Published: no figure for a model of this size
Result:    not measured
"""

from lmjax.data.prepare import DataConfig, WeightedData
from lmjax.data.sources import Docs
from lmjax.data.tokenizers import TokenizerConfig
from lmjax.recipes import data_folder
from lmjax.rlhf.advantages import KlConfig
from lmjax.rlhf.config import PpoConfig, PretrainingConfig
from lmjax.rlhf.rollout import RolloutConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.optim import OptimConfig


def config() -> PpoConfig:
    text = DataConfig("stores/docs_gpt2", Docs(), TokenizerConfig("file", path="runs/alpaca_sft/tokenizer"))
    return PpoConfig(
        directory="runs/chatgpt/ppo",
        init_from="runs/alpaca_sft/best",
        reward_model="runs/chatgpt/reward",
        prompts=data_folder("hh_rlhf_harmless", "train.jsonl.gz"),
        rollout=RolloutConfig(prompt_length=896, response_length=128, rows=128),
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
