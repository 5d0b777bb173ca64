"""lmjax's side of `ppo.py`: prints versions, then the seconds of one round for each line read."""

import sys
import time

import flax
import jax
import jax.numpy as jnp
import numpy as np

from lmjax.memory import keep_freed_memory
from lmjax.models.gpt import GptConfig
from lmjax.rlhf.advantages import KlConfig, ShapingConfig
from lmjax.rlhf.config import PpoConfig
from lmjax.rlhf.networks import NETWORK
from lmjax.rlhf.program import assemble_ppo
from lmjax.rlhf.reward_model import scorer
from lmjax.rlhf.rollout import RolloutConfig, as_text
from lmjax.train.optim import OptimConfig

PROMPT, NEW = 32, 64
QUIET = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}
SIZES = {
    "6m": GptConfig(
        vocab_size=4096, hidden_size=256, num_hidden_layers=6, num_attention_heads=4, intermediate_size=1024,
        max_position_embeddings=256, unroll=6, **QUIET,
    ),
    "gpt2": GptConfig(unroll=12, **QUIET),
}  # fmt: skip


def main() -> None:
    keep_freed_memory()
    what, size, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
    model = SIZES[size]
    cfg = PpoConfig(
        prompts="no_file",
        rollout=RolloutConfig(PROMPT, NEW, temperature=0.7),
        shaping=ShapingConfig(missing_eos="none"),
        kl=KlConfig(0.05),
        batch_size=rows,
        optim=OptimConfig(peak_lr=3e-6, eps=1e-8, weight_decay=0.0, clip_norm=0.0),
    )
    no_end = model.vocab_size  # never drawn, so that all answers are as long
    program = assemble_ppo(cfg, model, None if what == "shared" else model, no_end, 0)
    prompts = {
        "tokens": jnp.asarray(np.random.default_rng(0).integers(1, model.vocab_size, (rows, PROMPT), np.int32)),
        "segment_ids": jnp.ones((rows, PROMPT), jnp.int32),
    }
    print(f"jax {jax.__version__}, flax {flax.__version__}", flush=True)
    with jax.set_mesh(program.mesh):
        state = program.init_state()
        reference = jax.tree.map(jnp.copy, {name: state.params[name] for name in program.reference})
        score = scorer(model, assemble_ppo(cfg, model, model, no_end, 0).init_state().params[NETWORK])
        for _ in sys.stdin:
            start = time.perf_counter()
            rollout = program.roll_out(state.params, state.key, state.step, prompts)
            if what != "sample":
                experience, figures = program.score(state, reference, rollout, score(*as_text(rollout, 0)))
                state, _ = program.update(state, experience, {}, figures["kl"])
            jax.block_until_ready((state, rollout))
            print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
