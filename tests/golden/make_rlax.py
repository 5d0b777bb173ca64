"""What rlax 0.1.9 makes of random numbers: generalised advantage estimation and the clipped surrogate.

python -m venv ENV; ENV/bin/pip install rlax==0.1.9
ENV/bin/python tests/golden/make_rlax.py tests/golden/rlax.npz
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import rlax

ROWS, STEPS = 5, 7
rng = np.random.default_rng(11)
rewards, values = (rng.normal(size=(ROWS, STEPS)).astype(np.float32) for _ in range(2))
log_ratios, advantages = (rng.normal(size=(ROWS, STEPS)).astype(np.float32) for _ in range(2))
record = {"rewards": rewards, "values": values, "ratios": np.exp(0.3 * log_ratios), "advantages": advantages}
after = np.concatenate(
    [values, np.zeros((ROWS, 1), np.float32)], 1
)  # of the states 0..T; the last one is worth nothing
for gamma, gae_lambda in ((1.0, 0.95), (0.9, 0.7)):
    gae = jax.vmap(
        lambda r, v, g=gamma, x=gae_lambda: rlax.truncated_generalized_advantage_estimation(r, jnp.full(STEPS, g), x, v)
    )
    record[f"gae_{gamma}_{gae_lambda}"] = gae(rewards, after)
flat = (record["ratios"].reshape(-1), advantages.reshape(-1))
record["surrogate"] = rlax.clipped_surrogate_pg_loss(*flat, 0.2)
record["surrogate_gradient"] = jax.grad(rlax.clipped_surrogate_pg_loss)(*flat, 0.2).reshape(ROWS, STEPS)
np.savez(sys.argv[1], **record)
