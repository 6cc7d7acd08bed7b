"""Decision variables: bounds and orders by construction, scaling, inverse, rounding to the safe side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from policy_problems import Margin, margin_problem

from tailrisk._fields import InputError
from tailrisk.policy import Above, Mean, Problem, Rate, Scale, Shortfall, Tiers, Weights, variables
from tailrisk.policy.problem import checked

TIERS = Tiers("maintenance", start=(0.02, 0.05, 0.1), lower=0.005, upper=0.5, grid=0.001)
EVERYTHING = (
    Rate("fee", start=0.01, lower=0.0, upper=0.05, grid=0.0005),
    TIERS,
    Above("initial", "maintenance", start=(0.04, 0.08, 0.2), upper=1.0, grid=0.001),
    Scale("fund", start=2e6, grid=1e4),
    Scale("throttle", start=0.3, grid=0.01, rounding="down"),
    Weights("buffer", start=(0.5, 0.3, 0.2)),
)
SIZE = 1 + 3 + 3 + 1 + 1 + 2


VALUES = jax.jit(lambda free: variables.values(EVERYTHING, free))


def at(free):
    return {name: np.asarray(value) for name, value in VALUES(jnp.asarray(free)).items()}


def holds(value, slack=0.0):
    tiers, initial = value["maintenance"], value["initial"]
    assert 0.0 <= value["fee"] <= 0.05
    assert tiers[0] >= 0.005
    assert np.all(np.diff(tiers) >= 0.0)
    assert tiers[-1] <= 0.5
    assert np.all(initial >= tiers)
    assert np.all(np.diff(initial) >= 0.0)
    assert np.all(initial <= 1.0)
    assert value["fund"] > 0.0
    assert value["throttle"] > 0.0
    assert np.all(value["buffer"] > -slack)
    assert np.sum(value["buffer"]) == pytest.approx(1.0, abs=1e-12)


def test_zero_is_the_start():
    assert variables.sizes(EVERYTHING) == SIZE
    value = at(np.zeros(SIZE))
    for variable in EVERYTHING:
        np.testing.assert_allclose(value[variable.name], variable.start, rtol=1e-14)


@pytest.mark.parametrize("scale", [1.0, 10.0, 300.0], ids=["near", "far", "absurd"])
def test_bounds_and_orders_hold_everywhere(scale):
    rng = np.random.default_rng(0)
    for _ in range(100):
        holds(at(scale * rng.standard_normal(SIZE)), slack=1e-300)


def test_a_unit_step_moves_a_value_by_a_tenth():
    slope = jax.jit(jax.jacfwd(VALUES))(jnp.zeros(SIZE))
    own = {"fee": [0], "maintenance": [1, 2, 3], "initial": [4, 5, 6], "fund": [7], "throttle": [8], "buffer": [9, 10]}
    for variable in EVERYTHING:
        part = np.asarray(slope[variable.name])[..., own[variable.name]]
        moved = np.diagonal(np.atleast_2d(part)) if part.ndim > 1 else part
        start = np.atleast_1d(variable.start)[: moved.size]
        np.testing.assert_allclose(moved / start, 0.1, rtol=1e-12, err_msg=variable.name)


def test_free_numbers_invert_the_map():
    free = np.random.default_rng(1).standard_normal(SIZE)
    np.testing.assert_allclose(variables.free_numbers(EVERYTHING, at(free)), free, rtol=1e-9, atol=1e-9)


def test_a_bound_is_a_start_too():
    free = variables.free_numbers(EVERYTHING[:1], {"fee": 0.05})
    assert float(variables.values(EVERYTHING[:1], jnp.asarray(free))["fee"]) == pytest.approx(0.05, rel=1e-8)


@pytest.mark.parametrize(
    "tiers",
    [(0.02, 0.02, 0.1), (0.02, 0.02 * (1.0 - 1e-12), 0.1), (0.1, 0.5, 0.5)],
    ids=["equal", "equal but for rounding", "full"],
)
def test_equal_tiers_are_a_start_too(tiers):
    free = variables.free_numbers((TIERS,), {"maintenance": tiers})
    np.testing.assert_allclose(variables.values((TIERS,), jnp.asarray(free))["maintenance"], tiers, rtol=1e-7)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fee": 0.06}, "fee = 0.06"),
        ({"fee": 0.01, "maintenance": (0.02, 0.019, 0.1)}, "in order"),
        ({"fee": 0.01, "maintenance": (0.1, 0.5, 0.6)}, "in order"),
        ({}, "no value for 'fee'"),
    ],
    ids=["out of bounds", "falling", "beyond a full tier", "missing"],
)
def test_a_start_that_cannot_be(given, words):
    with pytest.raises(InputError, match=words):
        variables.free_numbers(EVERYTHING, given)


def test_rounding_goes_to_the_safe_side_and_keeps_orders():
    rng = np.random.default_rng(2)
    for _ in range(100):
        value = at(3.0 * rng.standard_normal(SIZE))
        rounded = variables.rounded(EVERYTHING, value)
        holds(rounded)
        for variable in EVERYTHING[:-1]:
            moved = rounded[variable.name] - value[variable.name]
            grid = float(variable.grid)
            low, high = (-grid, 0.0) if variable.rounding == "down" else (0.0, grid)
            if variable.name == "throttle" and value["throttle"] < grid:
                low, high = 0.0, grid  # a throttle of zero would never sell
            assert np.all((moved >= low - 1e-9 * grid) & (moved <= high + 1e-9 * grid)), variable.name
            steps = rounded[variable.name] / grid
            np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
    assert variables.rounded(EVERYTHING[:1], {"fee": 0.0105})["fee"] == 0.0105  # on the grid already


def test_rounding_keeps_an_order_over_two_grids():
    pair = (
        Rate("maintenance", start=0.1, lower=0.0, upper=0.5, grid=0.05),
        Above("initial", "maintenance", start=0.2, upper=1.0, grid=0.02),
    )
    rounded = variables.rounded(pair, {"maintenance": 0.101, "initial": 0.103})
    assert rounded == {"maintenance": 0.15, "initial": 0.16}


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        (Rate("m", start=0.6, lower=0.0, upper=0.5), "start"),
        (Tiers("m", start=(0.1, 0.1), lower=0.0, upper=0.5), "rise strictly"),
        (Weights("m", start=(0.5, 0.4)), "sum to one"),
        (Scale("m", start=-1.0), "> 0"),
        (Rate("m", start=0.2, lower=0.0, upper=0.55, grid=0.1), "not a multiple of grid"),
        (Above("m", "other", start=0.2, upper=0.5), "listed before"),
    ],
    ids=["rate", "tiers", "weights", "scale", "bound off the grid", "no base"],
)
def test_a_start_out_of_bounds_is_refused(variable, words):
    with pytest.raises(InputError, match=words):
        checked(Problem(Margin(), (variable,), {"margin": 1.0}, (Mean("bad_debt", limit=1.0),)))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"constraints": ()}, "at least one"),
        ({"constraints": (Mean("bad_debt", limit=0.0),)}, "> 0"),
        ({"constraints": (Shortfall("bad_debt", limit=1.0, level=1.0),)}, "< 1"),
        ({"variables": margin_problem(1.0).variables * 2}, "different names"),
        ({"variables": (Tiers("m", start=np.linspace(0.1, 0.9, 17), lower=0.0, upper=1.0),)}, "at most 16"),
        ({"variables": (TIERS, Above("i", "maintenance", start=(0.01, 0.2, 0.3), upper=1.0))}, "variables.i"),
    ],
    ids=["no constraint", "limit of zero", "level", "equal names", "too many", "initial below maintenance"],
)
def test_a_problem_that_does_not_fit_together_is_refused(parts, words):
    given = {"model": Margin(), "cost": {"margin": 1.0}, "constraints": (Mean("bad_debt", limit=1.0),)}
    with pytest.raises(InputError, match=words):
        checked(Problem(**({"variables": margin_problem(1.0).variables} | given | parts)))
