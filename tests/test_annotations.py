"""The suite runs with annotated shapes checked, in every worker."""

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from tailrisk import impact
from tailrisk._averages import lookup
from tailrisk.positions.search import count_above

DEPTH = impact.ConstantDepth(10.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: count_above(jnp.ones((2, 4)), jnp.ones(3), "a place"), "'value'"),  # two sides, three values
        (lambda: lookup(jnp.ones(4), jnp.ones(())), "'history'"),  # a history has a row per step
        (lambda: impact.Linear(DEPTH, 1.0).curve(jnp.ones((2, 1))), "'net'"),  # one net volume per asset
        (lambda: impact.Linear(DEPTH, 1.0).curve(jnp.ones(2, int)), "'net'"),  # whole numbers
        (lambda: impact.Linear(DEPTH, 1.0).curve(np.ones(2)), "'net'"),  # what belongs to a run is JAX's
    ],
    ids=["sizes differ", "too few axes", "too many axes", "whole numbers", "host array"],
)
def test_a_wrong_shape_is_an_error(call, words):
    with pytest.raises(TypeCheckError, match=words):
        call()


def test_right_shapes_pass():
    assert count_above(jnp.ones((2, 4)), jnp.ones(2), "a place").shape == (2,)
    assert impact.Linear(DEPTH, 1).curve(jnp.ones(2)).shape == (2,)
