"""transformers' and trl's side of `ppo.py`: prints versions, then the seconds of one round for each line read."""

import os
import sys
import tempfile
import time

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
import datasets
import tokenizers
import torch
import transformers
import trl
from trl.experimental.ppo import PPOConfig, PPOTrainer

PROMPT, NEW = 32, 64
SIZES = {
    "6m": {"vocab_size": 4096, "n_embd": 256, "n_layer": 6, "n_head": 4, "n_inner": 1024, "n_positions": 256},
    "gpt2": {},
}
OUT = os.fdopen(os.dup(1), "w")  # the trainer prints, too
os.dup2(2, 1)


def say(text: object) -> None:
    print(text, file=OUT, flush=True)


class Turns(transformers.TrainerCallback):
    """Waits for a line before each iteration, and says how long it took."""

    def on_step_end(self, *_: object, **__: object) -> None:
        say(time.perf_counter() - self.start)
        self.wait()

    def wait(self) -> None:
        if not sys.stdin.readline():
            os._exit(0)
        self.start = time.perf_counter()


def main() -> None:
    what, size, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    shape = transformers.GPT2Config(**SIZES[size], bos_token_id=None, eos_token_id=None, pad_token_id=0, num_labels=1)
    policy = transformers.GPT2LMHeadModel(shape)
    prompts = torch.randint(2, shape.vocab_size, (rows, PROMPT))
    say(f"torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}")
    if what == "sample":
        policy.eval()
        for _ in sys.stdin:
            start = time.perf_counter()
            with torch.no_grad():
                policy.generate(
                    prompts, attention_mask=torch.ones_like(prompts), do_sample=True, temperature=0.7, top_k=0,
                    max_new_tokens=NEW, pad_token_id=0,
                )  # fmt: skip
            say(time.perf_counter() - start)
        return
    words = tokenizers.models.WordLevel({f"w{i}": i for i in range(shape.vocab_size)}, unk_token="w1")
    names = {"eos_token": "w1", "pad_token": "w0"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words), padding_side="left", **names
    )
    others = [transformers.GPT2ForSequenceClassification(shape) for _ in range(2)]
    args = PPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=rows, total_episodes=rows * 10_000, use_cpu=True,
        response_length=NEW, num_ppo_epochs=4, num_mini_batches=1, num_sample_generations=0, report_to="none",
        bf16=False, gradient_checkpointing=False, save_strategy="no", disable_tqdm=True,
        local_rollout_forward_batch_size=rows,
    )  # fmt: skip
    data = datasets.Dataset.from_list([{"input_ids": prompt} for prompt in prompts.tolist()])
    turns = Turns()
    reference = transformers.GPT2LMHeadModel(shape)
    reference.load_state_dict(policy.state_dict())
    trainer = PPOTrainer(
        args, tokenizer, policy, reference, others[0], data, others[1], eval_dataset=data, callbacks=[turns]
    )
    turns.wait()
    trainer.train()


if __name__ == "__main__":
    main()
