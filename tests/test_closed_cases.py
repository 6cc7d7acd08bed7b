"""Small models behind published figures: closed forms, their paths, and the derivatives at fixed noise of a system."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk._fields import cast
from tailrisk._streams import Noise
from tailrisk.gradients import closed_cases as cases
from tailrisk.gradients import fixed_noise
from tailrisk.simulate import entry_point, simulate
from tailrisk.study import step_loss
from tailrisk.study.day_ahead import Venue

CASES = {"loss": (cases.LossBeyond(), 0.05), "long": (cases.IsolatedLong(), 0.05)}


@pytest.mark.parametrize(
    ("limit", "margin", "price"), [(1e-3, 0.0627565, 17.1426), (1e-4, 0.0971174, 131.7079), (1e-5, 0.1247355, 1099.843)]
)
def test_best_margin_as_printed(limit, margin, price):
    found = step_loss.best_margin(limit, 0.04)
    np.testing.assert_allclose(found, margin, atol=5e-8)
    np.testing.assert_allclose(1.0 / step_loss.breach_probability(found, 0.04), price, rtol=3e-6)
    heavy = step_loss.best_margin(limit, 0.04, 3)
    np.testing.assert_allclose(step_loss.expected_bad_debt(heavy, 0.04, 3), limit, rtol=1e-9)
    slope = step_loss.expected_bad_debt(heavy - 1e-6, 0.04, 3) - step_loss.expected_bad_debt(heavy + 1e-6, 0.04, 3)
    np.testing.assert_allclose(slope / 2e-6, step_loss.breach_probability(heavy, 0.04, 3), rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_mean_of_a_case_is_its_closed_form(name):
    """Value by Gauss-Hermite and Gauss-Legendre nodes in place of noise, smoothed and not; and no smoothing in the limit."""
    case, margin = cast(CASES[name], np.float64)
    x, wx = np.polynomial.hermite_e.hermegauss(60)
    u, wu = np.polynomial.legendre.leggauss(200 if name == "long" else 1)
    inner = x if name == "loss" else np.zeros(1)
    a, b, c = (jnp.asarray(grid.ravel()) for grid in np.meshgrid(x, inner, 0.5 * (u + 1.0), indexing="ij"))
    weight = wx[:, None, None] * (wx if name == "loss" else np.ones(1))[None, :, None] * wu[None, None, :]
    weight = jnp.asarray((weight / weight.sum()).ravel())

    @entry_point
    def means(h):
        def value(estimator):
            def one(x, y, u):
                return case.value(margin, Noise(jnp.stack([x, y]), u[None]), h, estimator)

            return jnp.sum(weight * jax.vmap(one)(a, b, c))

        return value(cases.SMOOTHED), value(cases.CONDITIONAL)

    smoothed, conditional = means(jnp.asarray(0.05))
    np.testing.assert_allclose(smoothed, case.smoothed(margin, 0.05), rtol=2e-3)
    np.testing.assert_allclose(conditional, case.expected(margin), rtol=2e-3)
    np.testing.assert_allclose(case.smoothed(margin, 1e-5), case.expected(margin), rtol=1e-6)


def test_slopes_at_fixed_noise():
    """Those of differences on the paths that `simulate` runs; what nothing moves has the slope 0, exactly."""
    case, margin, h = cast((CASES["long"][0], np.asarray(CASES["long"][1]), np.asarray(0.01)), np.float64)
    system = cases.CasePath(case, margin, h, cases.SMOOTHED, np.dtype("float64"))
    tangent = fixed_noise.direction(system, lambda s: s.margin)
    value, slope = fixed_noise.slopes(system, tangent, paths=300, seed=5, chunk=128)
    moved = [
        simulate(eqx.tree_at(lambda s: s.margin, system, margin + d), paths=300, seed=5)["value"]
        for d in (0.0, 1e-6, -1e-6)
    ]
    np.testing.assert_allclose(value["value"], moved[0], rtol=1e-12)
    np.testing.assert_allclose(slope["value"], (moved[1] - moved[2]) / 2e-6, rtol=1e-4, atol=1e-4)
    naive = cases.NaiveSale(case, margin, jnp.asarray(2, jnp.int32), 62, np.dtype("float64"))
    value, slope = fixed_noise.slopes(naive, fixed_noise.direction(naive, lambda s: s.margin), paths=512)
    assert value["value"].max() > 0.0
    assert not slope["value"].any()


def test_debt_of_a_day_is_that_of_many_accounts():
    """Deficits and closed accounts of the continuum against a sum over accounts, without and with impact."""
    fall, seen = jnp.asarray([-0.1, 0.03, 0.15, 0.31, 0.6]), jnp.full(5, 0.05**2)
    extra = (np.arange(100_000) + 0.5) / 100_000
    for impact in (0.0, 0.2):
        venue = cast(Venue(impact=impact, rounds=200), np.float64)
        found = venue.outcomes({"seen": seen, "fall": fall, "weight": jnp.ones(5)}, {"k": jnp.asarray(3.0)})
        held = 0.15 * (1.0 + extra)
        total = np.asarray(fall)
        for _ in range(200):
            total = np.asarray(fall) + impact * np.array([np.mean(held - d < 0.075) for d in total])
        np.testing.assert_allclose(found["forced_share"], [np.mean(held - d < 0.075) for d in total], atol=2e-5)
        np.testing.assert_allclose(found["bad_debt"], [np.maximum(d - held, 0.0).mean() for d in total], atol=1e-6)
        np.testing.assert_allclose(found["margin"], 0.225, rtol=1e-12)
