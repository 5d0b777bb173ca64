"""A run of 60 toy steps that checkpoints, evaluates and logs as a real one does: killed and started again by the tests.

python a_run.py RUN_DIR [SECONDS_A_STEP]
"""

import sys
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lmjax.train.checkpoint import CheckpointConfig, Checkpoints
from lmjax.train.log import Log, LogConfig
from lmjax.types import TrainState

LAST = 60


@dataclass(frozen=True)
class Run:
    seed: int = 0


@jax.jit
def train_step(state: TrainState) -> tuple[TrainState, jax.Array]:
    noise = jax.random.normal(jax.random.fold_in(state.key, state.step), (64, 64))
    params = {"w": 0.9 * state.params["w"] + noise}
    return state.replace(step=state.step + 1, params=params), jnp.mean(params["w"] ** 2)


def main(run_dir: str, seconds: float) -> None:
    best = {"step": jnp.int32(-1), "value": jnp.float32(jnp.inf)}
    state = TrainState(jnp.int32(0), {"w": jnp.zeros((64, 64))}, (), jax.random.key(0), {"best": best})
    with Checkpoints(run_dir, CheckpointConfig(every=4, keep=2, keep_period=20), Run()) as checkpoints:
        restored = checkpoints.restore_latest_valid(state)
        log = Log(run_dir, LogConfig(every=2), None if restored is None else int(restored.step), LAST)
        state = state if restored is None else restored
        for step in range(int(state.step) + 1, LAST + 1):
            state, loss = train_step(state)
            time.sleep(seconds)
            log.tick(step)
            better = False
            if step % 2 == 0:
                log.train(step, {"loss": loss}, {"seconds": time.time()})
                checkpoints.check()
            if step % 6 == 0:
                value = jnp.abs(jnp.mean(state.params["w"]))
                log.heldout(step, {"loss": value})
                better = bool(value < state.extra["best"]["value"])
                if better:
                    state = state.replace(extra={"best": {"step": jnp.int32(step), "value": value}})
            if better or step % 4 == 0 or step == LAST:
                log.flush()
                checkpoints.save(state)
            print(step, flush=True)
        log.close()
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
