"""transformers' side of `train_step.py`: prints versions, then the seconds of one step for each line read."""

import os
import sys
import time

import torch
import transformers
from transformers import BertConfig, BertForPreTraining, GPT2Config, GPT2LMHeadModel

ROWS, LENGTH, MASKED = 8, 128, 20


def main() -> None:
    name, dtype, variant = sys.argv[1:]
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    model = (BertForPreTraining(BertConfig()) if name == "bert" else GPT2LMHeadModel(GPT2Config())).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    tokens = torch.randint(0, model.config.vocab_size, (ROWS, LENGTH))
    positions = torch.stack([torch.randperm(LENGTH - 1)[:MASKED].sort().values + 1 for _ in range(ROWS)])
    labels = torch.full_like(tokens, -100).scatter(1, positions, tokens.gather(1, positions))
    is_random = torch.randint(0, 2, (ROWS,))

    def loss() -> torch.Tensor:
        if name == "gpt2":
            return model(input_ids=tokens, labels=tokens).loss
        if variant == "plain":
            return model(input_ids=tokens, labels=labels, next_sentence_label=is_random).loss
        hidden, pooled = model.bert(input_ids=tokens)[:2]
        hidden = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
        words, following = model.cls(hidden, pooled)
        entropy = torch.nn.functional.cross_entropy
        return entropy(words.flatten(0, 1), tokens.gather(1, positions).flatten()) + entropy(following, is_random)

    print(f"torch {torch.__version__}, transformers {transformers.__version__}", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value.item()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
