"""Which lanes a batch of rare work takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk._rare import Flags, first_at_least, running_count


@pytest.mark.parametrize("lanes", [1, 31, 64, 65, 1000])
def test_batches_take_every_flagged_lane_once(lanes):
    rng = np.random.default_rng(0)
    for share in (0.0, 0.1, 0.5, 1.0):
        flags = rng.random(lanes) < share
        batch = jax.jit(lambda flags, first: Flags.of(flags).lanes_from(first, 1 + lanes // 3))
        taken = np.concatenate([batch(flags, np.int32(i * (1 + lanes // 3))) for i in range(4)])
        assert int(Flags.of(jnp.asarray(flags)).count) == flags.sum()
        np.testing.assert_array_equal(np.sort(taken[: flags.sum()]), np.flatnonzero(flags))
        assert (taken[flags.sum() :] == lanes).all()  # past the end: dropped


@pytest.mark.parametrize("lanes", [1, 31, 64, 65, 1000])
def test_ranks_are_found_again(lanes):
    counts = np.random.default_rng(1).integers(0, 4, lanes, dtype=np.int32)
    rank = jax.jit(running_count)(counts)
    np.testing.assert_array_equal(rank, np.cumsum(counts))
    found = jax.jit(first_at_least)(rank, jnp.arange(1, counts.sum() + 8, dtype=jnp.int32))
    np.testing.assert_array_equal(found, np.append(np.repeat(np.arange(lanes), counts), np.full(7, lanes)))
