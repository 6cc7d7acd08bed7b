"""What derivatives cost is said only of methods that agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk.bench import gradient_cost
from tailrisk.bench.gradient_cost import METHODS, Row


def rows(apart=1e-9):
    """Forward mode grows with the numbers, reverse mode does not."""
    return [
        Row("smooth ladder", name, count, 2.0 + place + count, 1e3 * (place + 1), apart if place == 3 else 0.0)
        for count in gradient_cost.COUNTS
        for place, name in enumerate(METHODS)
    ]


def test_methods_that_do_not_agree_are_named():
    assert gradient_cost.failures(rows()) == []
    assert gradient_cost.failures(rows(0.02)) == [
        f"central differences, {count} numbers: 0.02 from forward mode" for count in (1, 4, 16)
    ]


def test_both_panels_show_every_method():
    passes, memory = gradient_cost.draw(rows()).axes
    assert [len(axes.lines) for axes in (passes, memory)] == [4, 4]
    assert passes.lines[0].get_ydata().tolist() == [3.0, 6.0, 18.0]


@pytest.mark.slow
def test_methods_agree_and_a_hard_ladder_refuses():
    """Two numbers on a small ladder: reverse mode asks for most memory, checkpoints for less."""
    found, said = gradient_cost.measure(128, 1, (2,), accounts=200, horizon="1h")
    assert gradient_cost.failures(found) == []
    forward, reverse, again, differences = found
    assert reverse.apart < 1e-9
    assert 0.0 < differences.apart < gradient_cost.AGREE
    assert differences.memory < again.memory < reverse.memory
    assert "maintenance margin" in said
    assert all(row.passes > 0.0 for row in found)
    assert np.isfinite(forward.memory)


@pytest.mark.slow
def test_estimators_of_a_hard_ladder_are_timed():
    found = gradient_cost.hard(1_024, 1, accounts=12)
    assert [row.parameters for row in found] == [1, 1, 4, 4]
    assert all(row.passes > 0.0 for row in found)


def test_reverse_mode_gets_through_a_smooth_ladder():
    """Tracing is enough: what is packed by lanes has no transpose and raises here."""
    mean = gradient_cost.expected(gradient_cost.tiered(accounts=32, horizon="10min"), np.float64)
    rates = jax.eval_shape(jax.grad(mean), jnp.full(2, 0.01), jnp.arange(4, dtype=jnp.uint32))
    assert rates.shape == (2,)
