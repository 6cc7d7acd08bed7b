"""The last steps on the deciding model, the curvature they use, and the front that they make."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from policy_problems import TwoMargins, normals
from scipy import stats

from tailrisk.policy import (
    AbstractSampledModel,
    AugmentedLagrangian,
    Mean,
    Policy,
    Problem,
    Rate,
    Stream,
    Tiers,
    curvature,
    differences,
    polish,
    stationarity,
    tune,
)
from tailrisk.policy.frontier import front_weights
from tailrisk.policy.lagrangian import ROOT
from tailrisk.policy.problem import judge

LIMIT, PATHS = 4e-4, 100_000
DEVIATIONS = np.array([0.02, 0.06])
STREAM = Stream(ROOT, 5, PATHS, PATHS)


def problem_of(limit):
    variables = (Tiers("margins", start=(0.05, 0.3), lower=0.001, upper=0.9),)
    return Problem(TwoMargins(), variables, {"margin": 1.0}, (Mean("bad_debt", limit),))


@pytest.fixture(scope="module")
def polished():
    """From margins with twice the bad debt that is allowed, and not in the right proportion."""
    return polish(problem_of(LIMIT), {"margins": np.array([0.045, 0.11])}, STREAM)


def conditions(problem, found):
    slopes = differences(problem, found.optimum, STREAM)
    return slopes, stationarity(problem, found.optimum.parameters, found.at_optimum, slopes, z=1.645, room=0.03)


def test_polish_lands_on_the_optimum_of_the_gradients(polished):
    """The augmented Lagrangian with pathwise gradients on the same paths is exact; a limit is kept to 2 parts in 10,000."""
    tuned = tune(problem_of(LIMIT), seed=5, paths=PATHS, chunk=PATHS, method=AugmentedLagrangian())
    assert tuned.status == "converged"
    assert -3e-4 <= polished.violation <= 0.0
    assert tuned.evaluation.cost <= polished.at_optimum.cost * (1.0 + 1e-6)
    assert polished.at_optimum.cost == pytest.approx(tuned.evaluation.cost, rel=2e-4)
    np.testing.assert_allclose(polished.optimum.parameters["margins"], tuned.parameters["margins"], rtol=0.01)


def test_curvature_has_its_closed_form(polished):
    """Per (10 %)^2: price phi(m_i/s_i) (m_i/10)^2 / s_i over the cost, nothing off the diagonal; one direction is free."""
    problem = problem_of(LIMIT)
    slopes, optimal = conditions(problem, polished)
    bend = curvature(problem, polished.optimum, STREAM, slopes, optimal)
    margins, cost = polished.optimum.parameters["margins"], polished.at_optimum.cost
    price = optimal.prices[0] / 0.97
    known = price * stats.norm.pdf(margins / DEVIATIONS) / DEVIATIONS * (0.1 * margins) ** 2 / cost
    bends = differences(problem, polished.optimum, STREAM, bends=True).bends
    assert bends is not None
    np.testing.assert_allclose((np.append(1.0, price) @ bends) / cost, known, rtol=0.1)
    assert bend.directions.shape == (2, 1)
    assert abs(bend.directions[:, 0] @ slopes.bound[0]) <= 1e-9 * np.abs(slopes.bound[0]).max()
    along = float(bend.directions[:, 0] ** 2 @ known)
    assert abs(bend.eigenvalues[0] - along) <= 4.0 * bend.errors[0] + 0.03 * along
    assert bend.errors[0] <= 0.03 * along
    assert bend.identified == (True,)


class Doubled(AbstractSampledModel):
    """A loss beyond the sum of two margins: neither alone is identified."""

    def sample(self, parameters, keys, first, paths):
        total = parameters["left"] + parameters["right"]
        loss = 0.04 * normals(keys, first, paths, 1)[:, 0]
        return {"bad_debt": jax.nn.relu(loss - total), "margin": jnp.broadcast_to(total, loss.shape)}


def test_a_valley_is_named():
    variables = tuple(Rate(name, start=0.04, lower=0.01, upper=0.5) for name in ("left", "right"))
    problem = Problem(Doubled(), variables, {"margin": 1.0}, (Mean("bad_debt", 1e-3),))
    stream = STREAM._replace(paths=20_000, chunk=20_000)
    found = polish(problem, {"left": np.asarray(0.03), "right": np.asarray(0.03)}, stream)
    slopes = differences(problem, found.optimum, stream)
    optimal = stationarity(problem, found.optimum.parameters, found.at_optimum, slopes, z=1.645, room=0.03)
    assert optimal.unidentified == ()  # each moves the cost, and what it does the other can undo
    bend = curvature(problem, found.optimum, stream, slopes, optimal)
    assert bend.identified == (False,)
    assert {"left[0]", "right[0]"} == {word for word in bend.words(0).replace(",", "").split() if "[" in word}
    assert {"up", "down"} <= set(bend.words(0).split())


def test_front_has_the_slope_of_its_multipliers(polished):
    """Costs of four polished optima, each from its neighbor; errors bounded by the paths."""
    problem = problem_of(LIMIT)
    _, optimal = conditions(problem, polished)
    limits = LIMIT * np.array([1.0, 0.8, 0.6, 0.45])
    points, prices, errors = [polished], [optimal.prices[0]], [optimal.price_errors[0]]
    for limit in limits[1:]:
        here = eqx.tree_at(lambda p: p.constraints[0].limit, problem, np.asarray(limit))
        points.append(polish(here, points[-1].optimum.parameters, STREAM))
        assert -3e-4 <= points[-1].violation <= 0.0
        known = conditions(here, points[-1])[1]
        prices.append(known.prices[0])
        errors.append(known.price_errors[0])
    along = (front_weights(limits) @ np.array([point.at_optimum.cost for point in points]))[1:-1]
    np.testing.assert_allclose(along, prices[1:-1], rtol=0.02)
    assert max(np.array(errors) / prices) <= 0.04


def test_a_bound_that_is_touched_is_kept():
    """The dearer margin may not fall below 0.14, beyond its optimum: the other one then meets the limit alone."""
    variables = tuple(
        Rate(name, start=start, lower=lower, upper=0.9)
        for name, start, lower in (("first", 0.05, 0.001), ("second", 0.2, 0.14))
    )
    problem = Problem(Apart(), variables, {"margin": 1.0}, (Mean("bad_debt", LIMIT),))
    stream = STREAM._replace(paths=50_000, chunk=50_000)
    found = polish(problem, {"first": np.asarray(0.045), "second": np.asarray(0.15)}, stream)
    assert float(found.optimum.parameters["second"]) == pytest.approx(0.14, rel=1e-9)
    assert -3e-4 <= found.violation <= 0.0
    judged = judge(problem, found.optimum.parameters, stream)
    slopes = differences(problem, Policy(found.optimum.parameters, judged.levels), stream)
    optimal = stationarity(problem, found.optimum.parameters, judged, slopes, z=1.645, room=0.03)
    assert optimal.touched[0][0] == "second at its lower bound 0.14"
    assert optimal.touched[0][1] > 0.0
    assert curvature(problem, found.optimum, stream, slopes, optimal).directions.shape == (2, 0)


class Apart(AbstractSampledModel):
    """Two margins as variables of their own."""

    def sample(self, parameters, keys, first, paths):
        margins = jnp.stack([parameters["first"], parameters["second"]])
        return TwoMargins().sample({"margins": margins}, keys, first, paths)


def test_where_nothing_holds_the_start_is_kept():
    """A limit out of reach of a step: its model has no solution, and the result does not pretend to hold."""
    stream = STREAM._replace(paths=20_000, chunk=20_000)
    problem = dataclasses.replace(problem_of(LIMIT), constraints=(Mean("bad_debt", 1e-7),))
    start = {"margins": np.array([0.03, 0.08])}
    found = polish(problem, start, stream, rounds=1)
    assert found.violation > 0.0
    np.testing.assert_array_equal(found.optimum.parameters["margins"], start["margins"])
