"""Boundary branching: no variance where there should be none, the truth elsewhere, and any choice of branches will do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import one_account, small, two_accounts, two_accounts_apart, two_steps_with_breaker
from listed_thresholds import thresholds

from tailrisk._fields import InputError
from tailrisk.gradients import (
    Ladder,
    LadderWalk,
    WalkLaw,
    branch,
    hindsight,
    importance,
    oracle,
    pool,
    reference_book,
)
from tailrisk.gradients import proposal as proposals
from tailrisk.gradients.proposal import Proposal, clears_to, stakes
from tailrisk.simulate import outcomes

LAW = WalkLaw(deviation=0.015, jump_probability=0.002, sampling_probability=0.02)
LADDER = Ladder(reference_book(12, 3), LAW, steps=6)
RUN = {"paths": 64 * 1024, "batches": 64, "pilot_paths": 8 * 1024}
SMALL = {"paths": 64 * 256, "batches": 64, "pilot_paths": 2 * 256, "chunk": 256}
NAMES = ("maintenance", "initial_shift", "impact")
TRUTH = {
    "maintenance": -9.107287e-3,
    "initial_shift": -5.130104e-3,
    "impact": 3.883571e-3,
    "law.drift": -2.6045172e-2,
}  # quadrature, see below


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
        step, row, scale = branch.select(mass.T, 16, uniform)
        assert (np.diff(step) >= 0).all()
        np.add.at(total, (step, row), scale / repeats)
        scales[step, row] = scale
    assert (scales > 0.0).all()
    assert (np.abs(total - 1.0) <= 2.0 * scales / repeats).all()  # offsets lie on a grid: one too many or too few
    assert (np.abs(total - 1.0) < 5e-3).mean() > 0.5


def test_depth_of_the_first_return():
    positions = np.random.default_rng(0).normal(0.0, 1.0, (64, 9)).cumsum(axis=1)
    wanted = [[next((x - y for y in row[i + 1 :] if y < x), 0.0) for i, x in enumerate(row)] for row in positions]
    np.testing.assert_allclose(np.asarray(hindsight.first_depth(jnp.asarray(positions.T))).T, wanted, rtol=1e-12)
    assert 0.1 < np.mean(np.array(wanted) == 0.0) < 0.9


def test_deficit_is_that_of_the_return():
    """Without impact it is how far below its liquidation price an account would be sold, less the cushion below that."""
    walk = LadderWalk.build(LADDER.replace("impact", 0.0))
    pool = branch.Branching(walk, (), seed=1, size=256, count=256, chunk=64).pool(0)
    steps, _, deficit = (jax.tree.map(np.asarray, part) for part in pool.steps)
    depth = np.asarray(hindsight.first_depth(jnp.asarray(steps.after)))
    wanted = np.maximum(depth + np.log1p(-0.025), 0.1 * 0.015)
    np.testing.assert_allclose(deficit, np.where(depth > 0.0, wanted, 0.1 * 0.015), atol=1e-7)
    assert np.mean(deficit > 0.002) > 0.01


def test_states_come_back_as_they_were():
    """A pool keeps a part of its states; the rest is worked out, windows of the breaker too."""
    walk = LadderWalk.build(LADDER.replace("band", 0.04))
    shown = outcomes(walk, 1, np.arange(256), record=True)[1]
    steps = branch.Branching(walk, (), seed=1, size=256, count=256, chunk=64).pool(0).steps[0]
    for step in (1, 3, 5):
        found = jax.vmap(lambda row, step=step: pool.restored(walk, steps, row, jnp.int32(step)))(jnp.arange(256))
        for name in ("level", "sold", "bad_debt", "fund_income", "window", "window_sold", "halt", "halted"):
            np.testing.assert_array_equal(getattr(found, name), getattr(shown, name)[:, step - 1], err_msg=name)
    highest = np.asarray(pool.highest(walk, steps))
    np.testing.assert_array_equal(highest[1:], shown.window.max(axis=-1)[:, :-1].T)
    assert (highest[0] == -np.inf).all()
    assert (np.asarray(shown.halt) > 0).any()


@pytest.mark.parametrize("band", [np.inf, 0.04], ids=["no-breaker", "breaker"])
def test_draws_have_the_chances_that_they_say(band):
    """1 / factor is chance over density: it adds up to that of all, and frequencies agree, from one state for each count."""
    walk = LadderWalk.build(LADDER.replace("band", band))
    proposal = Proposal.build(walk)
    uniform = jnp.asarray((np.arange(4096) + 0.5) / 4096)

    @eqx.filter_jit
    def draws(walk, proposal, state):
        margin = jax.vmap(lambda u: proposal.draw_margin(walk, state, jnp.asarray(0.01), u))(uniform)
        trips = jax.vmap(lambda u: proposal.draw_trip(walk, state, u))(uniform) if walk.window else margin
        return margin, trips

    drawn = 0
    for sold, level in ((0, -0.02), (2, -0.06), (5, -0.1)):
        state = walk.init()._replace(sold=jnp.int32(sold), level=jnp.asarray(level))
        if walk.window:
            state = state._replace(window=jnp.full(walk.window, level + 0.01 - walk.clearing.fall[sold]))
        for found in draws(walk, proposal, state)[: 2 if walk.window else 1]:
            place, counts = np.unique(np.asarray(found.place), return_counts=True)
            first = [int(np.argmax(np.asarray(found.place) == k)) for k in place]
            factor, reached = np.asarray(found.factor)[first], np.asarray(found.level)[first]
            chance = np.asarray(walk.density(jnp.asarray(reached - level))) / factor
            assert (place >= sold).all()
            np.testing.assert_allclose(counts / 4096, chance, atol=2.0 / 4096)
            drawn += place.size
    assert drawn > 15


def test_counts_in_deficit():
    """A jump to just below a threshold leaves in deficit whoever owes more than the price that clearing ends at."""
    walk = LadderWalk.build(LADDER)
    thresholds, debt, fall = (
        np.asarray(x) for x in (walk.clearing.thresholds[:-1], walk.clearing.log_debt, walk.clearing.fall)
    )
    after = clears_to(thresholds)
    short = np.maximum.accumulate([sum(debt[: after[k]] > x - fall[after[k]]) for k, x in enumerate(thresholds)])
    np.testing.assert_array_equal(stakes(walk).short, short)
    assert short[0] == 0 < short[-1]


def test_cells_fill_their_tables():
    edges = [np.append(np.array(x) - 0.5, x[-1] + 0.5) for x in (importance.DEFICITS, importance.DISTANCES, (1.0,))]
    bins = [np.asarray(importance.bins(jnp.asarray(x), tuple(x[:-1] + 0.5))) for x in edges]
    assert np.prod([x.size for x in bins]) == importance.CELLS[0]
    for found in bins:
        np.testing.assert_array_equal(found, np.arange(found.size))


def test_factors_follow_what_branches_were_worth():
    """Root mean squares where there are many branches; the floor, not zero, where they were worth nothing."""
    start = np.ones(120)
    cell = np.repeat([0, 40, 100], 10_000)
    worth = np.random.default_rng(0).normal(0.0, 1.0, cell.size) * np.repeat([4.0, 1.0, 0.0], 10_000)
    factor = importance.learn(start, cell, worth)
    assert factor[0] == factor.max() == 1.0
    assert factor[40] == pytest.approx(0.25, rel=0.05)
    assert 0.0 < factor[100] < 0.15
    assert factor.min() > 0.0
    again = importance.learn(factor, cell, worth / factor[cell])  # what they are worth when drawn by the factors
    np.testing.assert_allclose(again[[0, 40]], factor[[0, 40]], rtol=0.02)
    np.testing.assert_array_equal(importance.learn(start, cell, np.zeros(cell.size)), start)


def test_no_mass_no_branches():
    assert not branch.select(np.zeros((3, 4)), 4, 0.3)[2].any()


def test_parting_point_is_the_last_that_is_real():
    """The search finds the last trip point among those that are marked one by one, in every state."""
    walk = LadderWalk.build(LADDER.replace("band", 0.04))
    shown = outcomes(walk, 2, np.arange(256), record=True)[1]
    states = jax.tree.map(lambda leaf: jnp.asarray(leaf[:, 2:].reshape(-1, *leaf.shape[2:])), shown)

    @eqx.filter_jit
    def both(walk, states):
        def one(state):
            last = walk.clearing.last_before_stop(state.sold, jnp.max(state.window) - walk.band)
            return last, thresholds(walk, state).breaker_real, state.halt == 0

        return jax.vmap(one)(states)

    last, real, live = (np.asarray(numbers) for numbers in both(walk, states))
    marked = real.shape[1] - 1 - np.argmax(real[:, ::-1], axis=1)
    np.testing.assert_array_equal(last[live], marked[live])
    assert (last[live] > np.asarray(states.sold)[live]).any()


def test_at_stake_is_what_falls_at_once():
    walk = LadderWalk.build(LADDER)
    thresholds, sold = (np.asarray(x) for x in (walk.clearing.thresholds, walk.clearing.pressure))
    wanted, least = [], np.inf
    for place, threshold in enumerate(thresholds[:-1]):
        after = next(k for k in range(place + 1, thresholds.size) if thresholds[k] <= threshold)
        wanted.append((sold[after] - sold[place]) * (threshold < least))
        least = min(least, threshold)
    np.testing.assert_allclose(np.asarray(Proposal.build(walk).quantity), wanted, rtol=1e-12)
    assert max(wanted) > np.diff(sold).max()  # some sale takes others with it
    assert min(wanted) == 0.0  # and those are not met by themselves


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: branch.estimate(LADDER, ("fee",)), "move no threshold"),
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


def all_alike(walk):
    """Stakes as if every account mattered, those too that others take with them."""
    found = stakes(walk)
    return found._replace(quantity=np.maximum(found.quantity, found.quantity.mean()))


@pytest.mark.slow
@pytest.mark.parametrize("band", [np.inf, 0.05], ids=["no-breaker", "breaker"])
def test_thresholds_that_do_not_matter_do_not_matter(band, monkeypatch):
    """Both sides of them are the same path, so they cost branches and no bias."""
    ladder = LADDER.replace("band", band)
    names = (*NAMES, "band")[: 4 if ladder.has_breaker else 3]
    plain = branch.estimate(ladder, names, seed=6, **RUN)
    monkeypatch.setattr(proposals, "stakes", all_alike)
    more = branch.estimate(ladder, names, seed=5, **RUN)
    error = np.hypot(plain.std_error, more.std_error)
    assert (error < 0.2 * np.abs(plain.estimate)).all()
    assert (np.abs(plain.estimate - more.estimate) < 4.0 * error).all()


@pytest.mark.slow
@pytest.mark.parametrize(("learned", "size", "most"), [(0, 1024, 0.1), (8192, 8192, 0.8)], ids=["same", "learned"])
def test_precision(learned, size, most):
    """Of the same paths, float32 gives what float64 gives: their difference has mean zero, by its own error over batches.

    By masses alone nearly all branches are the same, so the difference is a small part of the error (`most`). Factors that
    are learned move by some percent when one branch of the pilot changes, and with them a part of all draws: then they are
    two estimates on the same paths, whose difference is as uncertain as a choice of branches. From 64 x 1,024 to 64 x 65,536
    paths it fell like the error itself.
    """
    means = {}
    for dtype in (np.float64, np.float32):
        walk = LadderWalk.build(LADDER, dtype=dtype)
        numbers = {
            "paths": 64 * size,
            "batches": 64,
            "pilot_paths": learned,
            "paths_per_branch": branch.FEW,
            "chunk": 1024,
        }
        means[dtype] = branch.run(walk, NAMES, seed=3, **numbers).means
    truth, apart = np.array([TRUTH[name] for name in NAMES]), means[np.float32] - means[np.float64]
    error, whole = (x.std(axis=0, ddof=1) / 8.0 for x in (apart, means[np.float64]))
    print(
        f"apart {apart.mean(axis=0) / error} errors of {error / np.abs(truth)} of the truth, {error / whole} of its error"
    )
    assert (error > 0.0).all()
    assert (error < most * whole).all()
    assert (error < 0.01 * np.abs(truth)).all()
    assert (np.abs(apart.mean(axis=0)) < 4.0 * error).all()


def test_without_double_precision_it_runs_in_single():
    """As in a fresh process; path numbers of the pilot start at 2^31, above what an int32 holds."""
    try:
        jax.config.update("jax_enable_x64", False)
        result = branch.estimate(LADDER, NAMES, seed=5, dtype=np.float32, **SMALL)
    finally:
        jax.config.update("jax_enable_x64", True)
    close(result, TRUTH["maintenance"], 0.1)
