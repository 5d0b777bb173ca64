"""Mean and TrainState."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.types import Mean, TrainState

pytestmark = pytest.mark.core

WEIGHED = st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 5)), min_size=6, max_size=6)


@settings(max_examples=30, deadline=None)
@given(weighed=WEIGHED)
def test_means_of_parts_add_up_to_the_mean_of_all(weighed):
    values, weights = (np.float32(column) for column in zip(*weighed, strict=True))
    parts = Mean.of(values[:2], weights[:2]) + Mean.of(values[2:], weights[2:])
    assert float(parts.weight) == weights.sum()
    if weights.sum():
        np.testing.assert_allclose(parts.value(), np.average(values, weights=weights), rtol=1e-5, atol=1e-6)
    else:
        assert np.isnan(parts.value())


def test_a_weight_of_zero_silences_its_value_and_its_gradient():
    weights = np.float32([0, 2, 0])
    mean, gradient = jax.value_and_grad(lambda v: Mean.of(v, weights).total)(jnp.float32([jnp.nan, 3, jnp.inf]))
    assert float(mean) == 6
    np.testing.assert_array_equal(gradient, weights)


def test_weights_are_broadcast_and_sums_are_float32():
    mean = Mean.of(jnp.full((2, 300), 1.0, jnp.bfloat16), jnp.ones((2, 1)))
    assert (float(mean.total), float(mean.weight), mean.total.dtype) == (600, 600, jnp.float32)
    assert float(Mean.of(jnp.array([True, False, True]), jnp.ones(3)).value()) == pytest.approx(2 / 3)


def test_train_state_is_a_tree_of_all_that_it_carries():
    state = TrainState(jnp.int32(3), {"w": jnp.ones(2)}, (), jax.random.key(0), {"best": {"loss": jnp.zeros(())}})
    doubled = jax.tree.map(lambda x: x, state).replace(step=state.step + 1)
    assert (int(doubled.step), int(state.step)) == (4, 3)
    assert len(jax.tree.leaves(state)) == 4
    assert TrainState(jnp.int32(0), {}, (), jax.random.key(0)).extra == {}
