"""What trl 1.12.0 (the last with PPO) makes of a fixed rollout: whitening, and one whole update of its PPOTrainer.

    python -m venv ENV; ENV/bin/pip install trl==1.12.0 torch==2.13.0 transformers==5.23.0 accelerate datasets
    ENV/bin/python tests/golden/make_ppo.py tests/golden/ppo.npz

The trainer runs as it is; but the answers are given, not drawn, and the orders of its rows are noted. Its values' last
layer gets the bias that lmjax's has. A record holds `config` (GPT-2's), `weights/{policy,reference,value}/NAME` from
before, `after/{policy,value}/NAME`, the rollout, what the trainer made of it and its metrics.
"""

import json
import os
import sys
import tempfile
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
import datasets
import numpy as np
import tokenizers
import torch
import transformers
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

VOCAB, EOS, PAD, ROWS, PROMPT, ANSWER, TEMPERATURE = 61, 60, 59, 16, 5, 6, 0.7
SHAPE = {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 40, "n_positions": 14}
RECIPE = {
    "num_ppo_epochs": 2,
    "num_mini_batches": 2,
    "whiten_rewards": True,
    "missing_eos_penalty": 1.0,
    "kl_coef": 0.05,
    "kl_estimator": "k1",
    "cliprange": 0.2,
    "cliprange_value": 0.2,
    "vf_coef": 0.1,
    "gamma": 0.99,
    "lam": 0.95,
    "temperature": TEMPERATURE,
    "learning_rate": 1e-2,
}


def model(kind: str, seed: int, **more: Any) -> Any:
    """A random GPT-2 whose weights are large enough that few updates matter."""
    torch.manual_seed(seed)
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "pad_token_id": PAD, "eos_token_id": EOS}
    made = getattr(transformers, f"GPT2{kind}")(transformers.GPT2Config(**SHAPE, **quiet, bos_token_id=EOS, **more))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
    return made


def weights(made: Any, prefix: str) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": p.detach().numpy().copy() for name, p in made.named_parameters()}


def answers(rng: np.random.Generator) -> torch.Tensor:
    """Answers that end at every place, or never."""
    drawn = rng.integers(0, PAD, (ROWS, ANSWER))
    for row, length in enumerate(np.arange(ROWS) % (ANSWER + 1)):
        if length < ANSWER:
            drawn[row, length], drawn[row, length + 1 :] = EOS, PAD
    return torch.tensor(drawn)


def tokenizer() -> Any:
    words = tokenizers.models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0")
    names = {"eos_token": f"w{EOS}", "pad_token": f"w{PAD}"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words), padding_side="left", **names
    )


def main(out: str) -> None:
    rng, noted = np.random.default_rng(3), {}
    judge = {"num_labels": 1}
    policy, reference = model("LMHeadModel", 0), model("LMHeadModel", 0)
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.1 * torch.randn_like(p))
    value, reward = (model("ForSequenceClassification", seed, **judge) for seed in (2, 3))
    value.score = torch.nn.Linear(SHAPE["n_embd"], 1)
    torch.nn.init.zeros_(value.score.bias)
    before = weights(policy, "weights/policy") | weights(reference, "weights/reference")
    before |= weights(value, "weights/value")
    prompts = [rng.integers(0, PAD, 1 + i % PROMPT).tolist() for i in range(ROWS)]
    given = answers(rng)

    def generated(
        lm: Any, queries: torch.Tensor, size: int, pad: int, config: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        noted["query_responses"] = torch.cat([queries, given], 1)
        logits = ppo_trainer.forward(lm, noted["query_responses"], pad).logits[:, queries.shape[1] - 1 : -1]
        return noted["query_responses"], logits / (TEMPERATURE + 1e-7)

    def whitened(values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
        result = whiten(values, mask, shift_mean)
        name = "advantages" if shift_mean else "rewards"
        noted.update({f"{name}_plain": values, f"{name}_mask": mask, f"{name}_whitened": result})
        return result

    def judged(*arguments: Any) -> Any:
        found = get_reward(*arguments)
        noted["scores"] = found[1].clone()  # of the last call: the reward model's, not the values'
        return found

    def permuted(count: int) -> np.ndarray:
        noted.setdefault("orders", []).append(rng.permutation(count))
        return noted["orders"][-1]

    whiten, get_reward = ppo_trainer.masked_whiten, ppo_trainer.get_reward
    ppo_trainer.batch_generation, ppo_trainer.masked_whiten, ppo_trainer.get_reward = generated, whitened, judged
    args = PPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=ROWS, total_episodes=ROWS, stop_token="eos",
        num_sample_generations=0, report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
        save_strategy="no", logging_steps=1, **RECIPE,
    )  # fmt: skip
    data = datasets.Dataset.from_list([{"input_ids": prompt} for prompt in prompts])
    trainer = PPOTrainer(args, tokenizer(), policy, reference, reward, data, value, eval_dataset=data)
    np.random.permutation = permuted
    trainer.train()
    log = {k: v for line in trainer.state.log_history for k, v in line.items() if isinstance(v, float | int)}
    arrays = {k: np.array(v) if isinstance(v, list) else v.detach().numpy() for k, v in noted.items()}
    after = weights(policy, "after/policy") | weights(value, "after/value")
    facts = {"config": json.dumps(SHAPE), "recipe": json.dumps(RECIPE), "metrics": json.dumps(log)}
    np.savez_compressed(out, **before, **after, **arrays, **facts)


if __name__ == "__main__":
    main(sys.argv[1])
