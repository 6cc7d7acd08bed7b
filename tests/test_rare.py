"""Which lanes a batch of rare work takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk._rare import first_at_least, running_count


@pytest.mark.parametrize("lanes", [1, 31, 64, 65, 1000])
def test_batches_take_the_flagged_lanes_in_order(lanes):
    rng = np.random.default_rng(0)
    for share in (0.0, 0.1, 0.5, 1.0):
        flags = rng.random(lanes) < share
        rank = jax.jit(running_count)(flags)
        np.testing.assert_array_equal(rank, np.cumsum(flags))
        found = jax.jit(first_at_least)(rank, jnp.arange(1, lanes + 8, dtype=jnp.int32))
        expected = np.full(lanes + 7, lanes)
        expected[: flags.sum()] = np.flatnonzero(flags)
        np.testing.assert_array_equal(found, expected)
