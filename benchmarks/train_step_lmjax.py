"""lmjax's side of `train_step.py`: prints versions, then the seconds of one step for each line read."""

import sys
import time
from dataclasses import replace

import flax
import jax
import numpy as np

from lmjax import objectives
from lmjax.memory import keep_freed_memory
from lmjax.models import architecture_of, preset
from lmjax.models.architecture import init_params, model_inputs
from lmjax.train.optim import OptimConfig, make_optimizer, make_schedule
from lmjax.train.step import make_train_step
from lmjax.types import TrainState


def main() -> None:
    keep_freed_memory()
    model, dtype = sys.argv[1:]
    cfg = preset({"bert": "bert-base-uncased", "gpt2": "gpt2"}[model])
    cfg = replace(cfg, dtype=dtype, unroll=cfg.num_hidden_layers)
    architecture = architecture_of(cfg)
    heads = ("mlm", "nsp") if model == "bert" else ("clm",)
    module = architecture.build(cfg, heads)
    optim = OptimConfig(peak_lr=1e-4, eps=1e-8, decay="constant")
    tx = make_optimizer(optim)
    objective = objectives.mlm(True) if model == "bert" else objectives.clm()

    def apply(params, batch, key):
        return module.apply({"params": params}, **model_inputs(architecture, batch), train=True, rngs={"dropout": key})

    step = jax.jit(make_train_step(apply, objective, tx, make_schedule(optim, 1), "steps"), donate_argnums=0)
    params = init_params(architecture, cfg, heads, jax.random.key(0))
    state = TrainState(np.int32(0), params, tx.init(params), jax.random.key(0, impl="rbg"))
    batch = make_batch(model, cfg.vocab_size)
    print(f"jax {jax.__version__}, flax {flax.__version__}", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        state, metrics = step(state, batch)
        float(metrics["loss"])
        jax.block_until_ready(state)
        print(time.perf_counter() - start, flush=True)


def make_batch(
    model: str, vocab_size: int, rows: int = 8, length: int = 128, masked: int = 20
) -> dict[str, np.ndarray]:
    """Random rows without padding: [1 micro-batch, rows, ...]."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocab_size, (1, rows, length), np.int32)
    scalars = {"micro_batches": np.int32(1), "tokens_seen": np.float32(0)}
    if model == "gpt2":
        return {"tokens": tokens, "targets": tokens, "loss_weights": np.ones(tokens.shape, np.float32), **scalars}
    positions = np.sort(rng.permuted(np.tile(np.arange(1, length), (1, rows, 1)), axis=2)[..., :masked], -1)
    return {
        "tokens": tokens,
        "token_type_ids": np.zeros_like(tokens),
        "segment_ids": np.ones_like(tokens),
        "mlm_positions": positions.astype(np.int32),
        "targets": np.take_along_axis(tokens, positions, 2),
        "loss_weights": np.ones(positions.shape, np.float32),
        "next_sentence_labels": rng.integers(0, 2, (1, rows), np.int32),
        "example_weights": np.ones((1, rows), np.float32),
        **scalars,
    }


if __name__ == "__main__":
    main()
