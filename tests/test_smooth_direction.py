"""One direction integrated exactly: exact where a line decides everything, several roots, and gradients of ln P."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tailrisk import tails
from tailrisk._fields import InputError, Real, real
from tailrisk._hard import HardThresholdGradientError
from tailrisk._streams import Draws, noise_keys
from tailrisk.bench.tail_cases import JumpCascade
from tailrisk.tails import CrossEntropy, Direction, Mean, Probability
from tailrisk.tails.direction import FittedDirection
from tailrisk.tails.line import search
from tailrisk.tails.problem import AbstractProblem, Roles


class Sum(AbstractProblem):
    """Score scale * sum(z) / sqrt(steps), or the square of it."""

    scale: Real = real(default=1.0, unit="1")
    square: bool = eqx.field(static=True, default=False)
    steps: int = eqx.field(static=True, default=4)
    dtype: Any = eqx.field(static=True, default=np.dtype(np.float64))

    @property
    def draws(self):
        return Draws(1)

    @property
    def roles(self):
        return Roles()

    def init(self):
        return jnp.zeros((), self.dtype)

    def step(self, state, noise):
        return state + noise.normal[0] * self.steps**-0.5, None

    def place(self, state):
        return self.scale * state

    def score(self, state):
        return (self.scale * state) ** 2 if self.square else self.scale * state

    def chance(self, state, noise, event):
        raise AssertionError("no events")

    def outcome(self, state):
        return {"score": self.score(state)}


def fitted(problem, level, **given):
    return tails.fit(problem, Probability(level), Direction(CrossEntropy(pilot=640, feedback=False), **given), 1)


def test_search_finds_roots_fast():
    """Between far ends of a curved function, to 1e-7 with 8 evaluations, and a kink to rounding."""
    g = lambda s: jnp.expm1(0.3 * (s - 2.5)) + 0.2 * jnp.maximum(s - 2.0, 0.0) - 0.1  # noqa: E731
    root, moved = jax.jit(lambda: search(g, jnp.asarray(-8.0), jnp.asarray(14.0), g(-8.0), g(14.0), 8))()
    assert abs(float(g(root))) < 1e-7
    assert float(moved) < 1e-2
    h = lambda s: 0.01 * s + jnp.maximum(s - 3.0, 0.0) - 0.3  # noqa: E731
    root, moved = jax.jit(lambda: search(h, jnp.asarray(-8.0), jnp.asarray(14.0), h(-8.0), h(14.0), 8))()
    assert abs(float(h(root))) < 1e-14
    assert float(moved) == 0.0


def test_a_linear_score_is_exact():
    """The direction is that of the sum, so each line knows the answer: no scatter, and the slope of Phi(-5/scale)."""
    fit = fitted(Sum(), 5.0)
    assert fit.cells == 1
    np.testing.assert_allclose(fit.direction, 0.5, rtol=1e-12)
    found = fit.run(Sum(), 640, 2)["probability"]
    assert found.value == pytest.approx(stats.norm.sf(5.0), rel=1e-10)
    assert found.std_error < 1e-10 * found.value
    slope = fit.gradient(Sum(), {"scale": lambda p: p.scale}, 640, 2)["scale"]
    assert slope.value == pytest.approx(5.0 * stats.norm.pdf(5.0) / stats.norm.sf(5.0), rel=1e-9)
    again = tails.loads(tails.dumps(fit)).run(Sum(), 640, 2)["probability"]
    assert again.estimate == found.estimate


def test_two_roots_are_found_or_refused():
    """A square crosses the level twice: cells find both; one who looks for a single root is refused."""
    problem, truth = Sum(square=True), 2.0 * stats.norm.sf(4.5)
    fit = FittedDirection(Probability(4.5**2), np.full((4, 1), 0.5), 4.5, (), 10, 16, 7, 0)
    slope = fit.gradient(problem, {"scale": lambda p: p.scale}, 128, 2)["scale"]
    assert slope.value == pytest.approx(4.5 * stats.norm.pdf(4.5) / stats.norm.sf(4.5), rel=1e-6)
    found = fit.crossings(problem, noise_keys(1, "test"), np.arange(128))
    np.testing.assert_allclose(found.chance, truth, rtol=1e-6)
    assert not found.single.any()
    row = dataclasses.replace(fit, cells=1).bent(problem, 640, 2)
    assert row.verdict == "refuse"


def test_bad_input():
    with pytest.raises(InputError, match="Probability of the score"):
        tails.fit(Sum(), Mean("score"), Direction())
    with pytest.raises(InputError, match="at least 2 evaluations"):
        Direction(evaluations=1)


@pytest.mark.slow
def test_gradients_of_the_reference_cascade():
    """d ln P in volatility and impact to 1 % with 20,000 lines, against central differences of 200,000 tilted paths."""
    problem, level = JumpCascade(), 0.30
    fit = tails.fit(problem, Probability(level), Direction(), 1)
    value = fit.run(problem, 20_000, 2)["probability"]
    tilt = tails.fit(problem, Probability(level), CrossEntropy(), 3)
    reference = tails.run(problem, tilt, 40_000, 3)["probability"]
    assert abs(value.value - reference.value) < 3.0 * np.hypot(value.std_error, reference.std_error)
    where = {"volatility": lambda p: p.volatility, "impact": lambda p: p.impact}
    found = fit.gradient(problem, where, 20_000, 4)
    for name, result in found.items():
        assert not result.refused, result.reason
        assert result.std_error < 0.01 * abs(result.value)
        at, step = where[name], 0.02
        low, high = (eqx.tree_at(at, problem, at(problem) * (1.0 + h)) for h in (-step, step))
        values = []
        for moved in (low, high):  # the same noise and, frozen, the same weights
            parts = list(tilt.sample(moved, 200_000, 5))
            values.append(np.concatenate([np.exp(c.log_weight) * (c.outcome["score"] >= level) for c in parts]))
        apart = (values[1] - values[0]) / (2.0 * step)
        p = 0.5 * (values[0].mean() + values[1].mean())
        difference, error = apart.mean() / p, apart.std() / p / apart.size**0.5
        print(name, result.value, result.std_error, difference, error)
        assert error < 0.1 * abs(difference)
        assert abs(result.value - difference) < 3.0 * np.hypot(result.std_error, error)
    with pytest.raises(HardThresholdGradientError, match="whether a jump arrives"):
        fit.gradient(problem, {"rate": lambda p: p.rate}, 640, 4)
