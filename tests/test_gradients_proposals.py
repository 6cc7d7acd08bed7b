"""Proposals of the noise change errors and no mean; functionals that only events move; thresholds that move apart."""

import equinox as eqx
import numpy as np
import pytest
from closed_forms import one_account, small
from test_gradients_branch import LADDER, NAMES, TRUTH, close

from tailrisk._fields import InputError
from tailrisk.gradients import (
    ForcedVolume,
    HaltedSteps,
    Ladder,
    LadderBook,
    LadderWalk,
    WalkLaw,
    branch,
    conditional,
    differences,
    measure_valued,
    oracle,
    reference_book,
    residual,
    score,
    shift,
)
from tailrisk.simulate import simulate

RUN = {"paths": 64 * 2048, "batches": 64}
TILTED = LADDER.replace("law.sampling_tilt", -0.4)
WAYS = {
    "shift": lambda ladder, **run: shift.estimate(ladder, chunk=2048, pilot_paths=16_384, **run),
    "score": lambda ladder, **run: score.estimate(ladder, chunk=2048, pilot_paths=16_384, **run),
    "measure-valued": lambda ladder, **run: measure_valued.estimate(ladder, chunk=2048, **run),
    "conditional": conditional.estimate,
    "branch": lambda ladder, **run: branch.estimate(ladder, pilot_paths=8192, **run),
    "differences": lambda ladder, **run: differences.estimate(ladder, chunk=2048, certify=False, **run),
}


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=() if way in ("shift", "measure-valued") else pytest.mark.slow) for way in WAYS]
)
def test_tilted_normals(way):
    """The walk is pushed down: the mean is what it was, and weights of all classes are those of the ratio."""
    found = WAYS[way](TILTED, seed=11, **RUN)
    close(found, TRUTH["maintenance"], 0.06)
    assert abs(found.mean_weight - 1.0) < 4.0 * found.mean_weight_error
    assert found.ess < 0.6 * found.paths


def test_tilt_is_a_likelihood_ratio():
    """Weights, and the law of the normal in what each score sees."""
    plain = LadderWalk.build(small([np.log(0.93)], [1.0], deviation=0.05, maintenance=0.02, impact=0.03))
    tilted = eqx.tree_at(lambda walk: walk.law.sampling_tilt, plain, plain.law.sampling_tilt - 0.7)
    out = simulate(tilted, paths=100_000, seed=12)
    exact = one_account(q=1.0, debt=0.93, m=0.02, sigma=0.05, impact=0.03)["value"]
    weighted = out["weight"] * out["value"]
    error = weighted.std() / np.sqrt(weighted.size)
    assert error < 0.01 * exact
    assert abs(weighted.mean() - exact) < 4.0 * error
    untilted = simulate(plain, paths=100_000, seed=12)["value"]
    assert weighted.std() < 0.7 * untilted.std()
    assert out["weight"].mean() == pytest.approx(1.0, abs=0.02)


def test_worth_by_class_of_event():
    """Paths without a jump keep the weight of no jump, so they are worth their number; with one, less than that."""
    found = WAYS["shift"](LADDER, seed=13, **RUN)
    out = simulate(LadderWalk.build(LADDER), paths=RUN["paths"], seed=13)
    worth = found.ess_by_class
    calm = out["jumped"] == 0.0
    assert worth["diffusive"] == pytest.approx(calm.sum())
    assert worth["jump"] == pytest.approx(out["weight"][~calm].sum() ** 2 / np.square(out["weight"][~calm]).sum())
    assert worth["trip"] == 0.0
    assert 0.0 < worth["jump"] <= (~calm).sum()
    halted = simulate(LadderWalk.build(LADDER.replace("band", 0.05)), paths=2048, seed=13)
    assert 0.0 < halted["tripped"].mean() < 1.0


def test_orders_and_units_do_not_matter():
    """Accounts in another order, and quantities in another unit with impact to match."""
    book, pick = LADDER.book, np.random.default_rng(1).permutation(12)
    orders = LadderBook(book.entry[pick], book.initial_margin[pick], 5.0 * book.quantity[pick])
    other = eqx.tree_at(lambda tree: tree.book, LADDER, orders).replace("impact", LADDER.get("impact") / 5.0)
    plain, moved = (WAYS["shift"](ladder, seed=14, **RUN) for ladder in (LADDER, other))
    np.testing.assert_allclose(moved.estimate, 5.0 * plain.estimate, rtol=1e-9)


VOLUME_LADDER = small([np.log(0.93)], [1.0], deviation=0.05, maintenance=0.02, impact=0.03)


def volume_slope():
    """One account, one step: it is sold with probability Phi(b / sigma)."""
    b = np.log(0.93 / 0.98)
    return np.exp(-0.5 * (b / 0.05) ** 2) / np.sqrt(2.0 * np.pi) / 0.05 / 0.98


def test_forced_volume():
    found = branch.estimate(
        VOLUME_LADDER,
        ("maintenance", "initial_shift"),
        functional=ForcedVolume(),
        paths=64 * 256,
        pilot_paths=0,
        chunk=256,
    )
    np.testing.assert_allclose(found.estimate, [volume_slope(), -volume_slope() * 0.98 / 0.93], rtol=1e-10)
    assert (found.std_error < 1e-10).all()


HALTING = LADDER.replace("band", 0.04)


@pytest.mark.slow
@pytest.mark.parametrize("functional", [HaltedSteps(), ForcedVolume()], ids=["halted", "volume"])
def test_functionals_that_events_alone_move(functional):
    """Two unbiased ways and differences, with a breaker."""
    names = ("maintenance", "band")
    one = branch.estimate(HALTING, names, seed=15, functional=functional, paths=64 * 4096)
    two = differences.estimate(HALTING, names, seed=16, functional=functional, certify=False, paths=64 * 16_384)
    three = measure_valued.estimate(HALTING, names[:1], seed=17, functional=functional, paths=64 * 16_384)
    for other, count in ((two, 2), (three, 1)):
        error = np.hypot(one.std_error[:count], other.std_error)
        assert (error < 0.12 * np.abs(one.estimate[:count])).all()
        assert (np.abs(one.estimate[:count] - other.estimate) < 4.0 * error).all()


def test_halted_steps_are_counted():
    """A trip with a halt of one step bars the next step; without a breaker nothing is barred."""
    out = simulate(LadderWalk.build(HALTING, HaltedSteps()), paths=2048, seed=18)
    assert (out["value"][out["tripped"] == 0.0] == 0.0).all()
    assert (
        out["value"] <= LADDER.steps - 2.0
    ).all()  # the window is empty in the first step, and a trip bars later ones
    assert out["value"].max() > 0.0


@pytest.mark.slow
def test_thresholds_that_move_apart():
    found = residual.estimate(LADDER, NAMES[1:], seed=19, paths=64 * 4096)
    for i, (name, relative) in enumerate(zip(NAMES[1:], (0.02, 0.02), strict=True)):
        close(found, TRUTH[name], relative, i)
    assert found.accepted.all()
    single = residual.estimate(LADDER, NAMES[1:], seed=19, paths=64 * 1024, dtype=np.float32)
    for i, name in enumerate(NAMES[1:]):
        close(single, TRUTH[name], 0.06, i)


@pytest.mark.slow
@pytest.mark.parametrize(("accounts", "most"), [((400, 0), 0.85), ((12, 3), 0.25)], ids=["many", "few"])
def test_residual_against_quadrature(accounts, most):
    """The truth, with less variance than differences on the same number of paths (measured: 0.54 and 0.09 of it)."""
    ladder, run = Ladder(reference_book(*accounts)), {"seed": 20, "paths": 128 * 8192, "batches": 128}
    found, truth = residual.estimate(ladder, **run), oracle.expected_bad_debt_and_gradient(ladder)[1]
    close(found, truth.get("initial_shift"), 0.02)
    assert found.accepted.all()
    other = differences.estimate(ladder, ("initial_shift",), step=5e-4, certify=False, **run)
    assert (found.std_error[0] / other.std_error[0]) ** 2 < most


RARE = Ladder(reference_book(100, 2, gap=0.05, highest_leverage=12.0), WalkLaw(jump_probability=2e-5, deviation=0.0045))


@pytest.mark.slow
def test_rare_losses_by_two_proposals():
    """P(L > 0) = 1.5e-4 and the sign is positive: with jumps oversampled, and with a tilt on top."""
    truth = 3.172958e-6
    plain, tilted = (
        shift.estimate(ladder, seed=21, paths=64 * 16_384)
        for ladder in (RARE, RARE.replace("law.sampling_tilt", -0.05))
    )
    for found in (plain, tilted):
        close(found, truth, 0.2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: residual.estimate(LADDER.replace("band", 0.04)), "no circuit breaker"),
        (lambda: residual.estimate(LADDER, ("maintenance",)), "use shift"),
        (lambda: residual.estimate(LADDER, share=7), "divides"),
    ],
    ids=["breaker", "maintenance", "share"],
)  # fmt: skip
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
