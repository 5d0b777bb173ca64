"""Peak rates of accelerators, for model-FLOPs utilisation (MFU)."""

import time

import jax
import jax.numpy as jnp

# Dense bfloat16 FLOP/s of one device as JAX counts devices, from the vendors' data sheets:
# cloud.google.com/tpu/docs (v2, v3: per core; v4 and later: per chip), nvidia.com (A100, H100, H200: without sparsity).
PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(dtype: str) -> tuple[float, str]:
    """One device's peak in FLOP/s and where the number comes from: the table, or, for a device that it lacks (any CPU),
    a second of matrix products in `dtype`."""
    device = jax.devices()[0]
    named = [(name, rate) for name, rate in PEAK_FLOPS.items() if device.device_kind.startswith(name)]
    if named:
        name, rate = max(named, key=lambda entry: len(entry[0]))
        return rate, f"{name} data sheet, bfloat16"
    sharing = jax.local_device_count() if device.platform == "cpu" else 1  # devices of the same cores
    return measured_flops(dtype) / sharing, f"measured {dtype} product of 1024x2048x2048"


def measured_flops(dtype: str, seconds: float = 1.0) -> float:
    """The best rate of a matrix product on one device over about `seconds`, FLOP/s."""
    x, y = jnp.ones((1024, 2048), dtype), jnp.ones((2048, 2048), dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    product(x, y).block_until_ready()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        product(x, y).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * 1024 * 2048 * 2048 / best
