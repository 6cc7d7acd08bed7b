"""Boundary branching: no variance where there should be none, the truth elsewhere, and any choice of branches will do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import one_account, small, two_accounts, two_accounts_apart, two_steps_with_breaker

from tailrisk._fields import InputError
from tailrisk.gradients import Ladder, LadderWalk, WalkLaw, branch, differences, importance, oracle, reference_book
from tailrisk.gradients import record as records
from tailrisk.gradients.proposal import Proposal
from tailrisk.simulate import outcomes

LAW = WalkLaw(deviation=0.015, jump_probability=0.002, sampling_probability=0.02)
LADDER = Ladder(reference_book(12, 3), LAW, steps=6)
RUN = {"paths": 64 * 1024, "batches": 64, "pilot_paths": 8 * 1024}
SMALL = {"paths": 64 * 256, "batches": 64, "pilot_paths": 2 * 256, "chunk": 256}
NAMES = ("maintenance", "initial_shift", "impact")
TRUTH = {"maintenance": -9.107287e-3, "initial_shift": -5.130104e-3, "impact": 3.883571e-3}  # quadrature, see below


def close(found, truth, relative, i=0):
    """Within four standard errors, which are at most `relative` of the truth."""
    error, distance = found.std_error[i], found.estimate[i] - truth
    assert error < relative * abs(truth), f"standard error {error / abs(truth):.3f} of the truth"
    assert abs(distance) < 4.0 * error, f"z = {distance / max(error, 1e-300):.2f}"


def test_one_account_one_step_has_no_variance():
    """The one threshold is met by every path alike; what is left to chance is the part at fixed events.

    The account is held in two halves, of which the first to be sold takes the other with it: that changes nothing.
    """
    numbers = {"q": 1.0, "debt": 0.93, "m": 0.02, "sigma": 0.05, "impact": 0.03}
    ladder = small(np.log([0.93, 0.93]), (0.4, 0.6), deviation=0.05, maintenance=0.02, impact=0.03)
    result = branch.estimate(ladder, NAMES, **SMALL)
    truth = one_account(**numbers)
    np.testing.assert_allclose(result.estimate[0], truth["maintenance"], rtol=1e-12)
    assert result.std_error[0] < 1e-12 * truth["maintenance"]
    close(result, truth["initial_shift"], 0.03, 1)
    close(result, truth["impact"], 0.03, 2)


@pytest.mark.parametrize("second", [0.93, 0.9185, 0.917], ids=["deep-inside", "at-the-edge", "outside"])
def test_two_accounts(second):
    """Where the first sale takes the second account with it there is one threshold, and no variance; else there are two."""
    debt, q = (0.935, second), (0.6, 0.4)
    ladder = small(np.log(debt), q, deviation=0.03, maintenance=0.02, impact=0.03)
    result = branch.estimate(ladder, NAMES, **SMALL)
    numbers = {"q": q, "debt": debt, "m": 0.02, "sigma": 0.03, "impact": 0.03}
    if second == 0.917:
        close(result, two_accounts_apart(**numbers), 0.02)
        assert result.std_error[0] > 0.0
    else:
        truth = two_accounts(**numbers)["maintenance"]
        np.testing.assert_allclose(result.estimate[0], truth, rtol=1e-12)
        assert result.std_error[0] < 1e-12 * truth


def test_breaker_of_one_account():
    numbers = {"q": 1.0, "debt": 0.95, "m": 0.02, "sigma": 0.03, "impact": 0.03, "band": 0.02}
    ladder = small([np.log(0.95)], [1.0], deviation=0.03, maintenance=0.02, impact=0.03, steps=2, band=0.02, halt=9)
    result, truth = branch.estimate(ladder, ("maintenance", "band"), **SMALL), two_steps_with_breaker(**numbers)
    close(result, truth["maintenance"], 0.03)
    close(result, truth["band"], 0.04, 1)


def test_all_thresholds_against_quadrature():
    result = branch.estimate(LADDER, NAMES, **RUN, seed=3)
    for i, (name, relative) in enumerate(zip(NAMES, (0.03, 0.08, 0.04), strict=True)):
        close(result, TRUTH[name], relative, i)
    assert result.accepted.all()
    assert abs(result.mean_weight - 1.0) < 4.0 * result.mean_weight_error
    plain = branch.estimate(LADDER, ("maintenance",), **(RUN | {"pilot_paths": 0}), seed=3)
    close(plain, TRUTH["maintenance"], 0.04)
    assert plain.estimate[0] != result.estimate[0]  # what is learned moves the choice, and not the mean


def test_selection_gives_every_step_its_share():
    """The expected number of branches times their scale is one over the pool, whatever the masses."""
    mass = 0.05 + np.random.default_rng(0).exponential(1.0, (16, 5))
    mass[3], mass[:, 2] = 0.05, 0.05
    total, scales, repeats = np.zeros((5, 16)), np.zeros((5, 16)), 20_000
    for uniform in (np.arange(repeats) + 0.5) / repeats:
        step, row, scale = branch.select(mass, uniform)
        assert (np.diff(step) >= 0).all()
        np.add.at(total, (step, row), scale / repeats)
        scales[step, row] = scale
    assert (scales > 0.0).all()
    assert (np.abs(total - 1.0) <= 2.0 * scales / repeats).all()  # offsets lie on a grid: one too many or too few
    assert (np.abs(total - 1.0) < 5e-3).mean() > 0.5


def test_steps_to_the_next_jump():
    jump = np.array([[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], bool)
    lag = importance.next_jump(jump)
    np.testing.assert_array_equal(lag[0, :4], [1, 3, 2, 1])
    assert (lag[0, 4:] >= importance.NEVER).all()
    assert (lag[1] >= importance.NEVER).all()


def test_cells_tell_steps_apart():
    """Each of lag, mass and level has bins of its own, and together they fill the table."""
    start = importance.flat(np.array([-0.2, -0.1]))
    lag, mass, level = np.meshgrid(
        [1, 2, 5, 9, 20, importance.NEVER], [1e-3, 0.05, 0.5, 5.0], np.linspace(-0.21, -0.09, 8)
    )
    grids = [x.reshape(8, -1) for x in (lag, mass, level)]
    found = importance.cells(start, *grids)
    np.testing.assert_array_equal(np.sort(found.reshape(-1)), np.arange(start.factor.size))


def test_factors_follow_what_branches_were_worth():
    """Root mean squares where there are many branches; the floor, not zero, where they were worth nothing."""
    start = importance.flat(np.array([-0.2, -0.1]))
    cell = np.repeat([0, 40, 100], 10_000)
    worth = np.random.default_rng(0).normal(0.0, 1.0, cell.size) * np.repeat([4.0, 1.0, 0.0], 10_000)
    factor = importance.learn(start, cell, worth).factor
    assert factor[0] == factor.max() == 1.0
    assert factor[40] == pytest.approx(0.25, rel=0.05)
    assert 0.0 < factor[100] < 0.15
    assert factor.min() > 0.0
    nothing = importance.learn(start, cell, np.zeros(cell.size)).factor
    np.testing.assert_array_equal(nothing, start.factor)


def test_no_mass_no_branches():
    assert not branch.select(np.zeros((4, 3)), 0.3)[2].any()


def test_parting_point_is_the_last_that_is_real():
    """The search finds the last trip point among those that are marked one by one, in every state."""
    walk = LadderWalk.build(LADDER.replace("band", 0.04))
    shown = outcomes(walk, 2, np.arange(256), record=True)[1]
    states = jax.tree.map(lambda leaf: jnp.asarray(leaf[:, 2:].reshape(-1, *leaf.shape[2:])), shown)

    @eqx.filter_jit
    def both(walk, states):
        def one(state):
            last = walk.clearing.last_before_stop(state.sold, jnp.max(state.window) - walk.band)
            return last, walk.thresholds(state).breaker_real, state.halt == 0

        return jax.vmap(one)(states)

    last, real, live = (np.asarray(numbers) for numbers in both(walk, states))
    marked = real.shape[1] - 1 - np.argmax(real[:, ::-1], axis=1)
    np.testing.assert_array_equal(last[live], marked[live])
    assert (last[live] > np.asarray(states.sold)[live]).any()


def test_at_stake_is_what_falls_at_once():
    walk = LadderWalk.build(LADDER)
    thresholds, sold = (np.asarray(x) for x in (walk.clearing.thresholds, walk.clearing.pressure))
    wanted = []
    for place, threshold in enumerate(thresholds[:-1]):
        after = next(k for k in range(place + 1, thresholds.size) if thresholds[k] <= threshold)
        wanted.append(sold[after] - sold[place])
    np.testing.assert_allclose(np.asarray(Proposal.build(walk).at_stake), wanted, rtol=1e-12)
    assert max(wanted) > np.diff(sold).max()  # some sale takes others with it


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: branch.estimate(LADDER, ("law.drift",)), "move no threshold"),
        (lambda: branch.estimate(LADDER, ("band",)), "no breaker whose band"),
        (lambda: branch.estimate(LADDER, paths=100, batches=3), "equal size"),
    ],
    ids=["law", "band", "batches"],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.slow
def test_truth():
    found = oracle.expected_bad_debt_and_gradient(LADDER)[1]
    for name, value in TRUTH.items():
        assert found.get(name) == pytest.approx(value, rel=2e-7)


FEW = Ladder(reference_book(12, 3))
LONG = {"paths": 64 * 8192, "batches": 64}


@pytest.mark.slow
def test_long_run_against_quadrature():
    result, wanted = branch.estimate(FEW, NAMES, seed=20, **LONG), oracle.expected_bad_debt_and_gradient(FEW)[1]
    for i, name in enumerate(NAMES):
        close(result, wanted.get(name), 0.06, i)
    assert result.accepted.all()


@pytest.mark.slow
def test_band_two_ways():
    ladder, names = FEW.replace("band", 0.04), ("band", "maintenance")
    one = branch.estimate(ladder, names, seed=21, **LONG)
    other = differences.estimate(ladder, names, seed=22, certify=False, **LONG)
    error = np.hypot(one.std_error, other.std_error)
    assert (one.std_error < 0.1 * np.abs(one.estimate)).all()
    assert (error < 0.25 * np.abs(one.estimate)).all()
    assert (np.abs(one.estimate - other.estimate) < 3.0 * error).all()


class Everything(LadderWalk):
    """A walk that takes every account and every count of sales for a threshold that matters."""

    def thresholds(self, state):
        found = super().thresholds(state)
        return found._replace(
            margin_real=jnp.ones_like(found.margin_real), breaker_real=jnp.isfinite(found.breaker) & (state.halt >= 0)
        )


def spurious(ladder, names, **run):
    batches = branch.run(Everything.build(ladder), names, seed=5, **run)
    return records.gradient(batches, names, method="", reason="", bias=records.no_bias(names, ""))


@pytest.mark.slow
@pytest.mark.parametrize("band", [np.inf, 0.05], ids=["no-breaker", "breaker"])
def test_thresholds_that_do_not_matter_do_not_matter(band):
    """Both sides of them are the same path, so they cost branches and no bias."""
    ladder = LADDER.replace("band", band)
    names = (*NAMES, "band")[: 4 if ladder.has_breaker else 3]
    plain = branch.estimate(ladder, names, seed=6, **RUN)
    batches = branch.run(Everything.build(ladder), names, seed=5, chunk=1024, **RUN)
    more = records.gradient(batches, names, method="", reason="", bias=records.no_bias(names, ""))
    error = np.hypot(plain.std_error, more.std_error)
    assert (error < 0.2 * np.abs(plain.estimate)).all()
    assert (np.abs(plain.estimate - more.estimate) < 4.0 * error).all()


@pytest.mark.slow
def test_precision():
    double, single = (branch.estimate(LADDER, NAMES, **RUN, seed=3, dtype=dtype) for dtype in (np.float64, np.float32))
    assert (np.abs(double.estimate - single.estimate) < 0.5 * double.std_error).all()
