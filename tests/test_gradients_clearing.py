"""The sorted clearing equals selling one account at a time, on every path; its book, its slopes, its thresholds."""

from functools import reduce

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from listed_thresholds import thresholds
from sequential import rounds, sequential

from tailrisk._fields import InputError
from tailrisk._streams import noise, noise_keys
from tailrisk.gradients import HardThresholdGradientError, Ladder, LadderBook, LadderWalk, WalkLaw, reference_book
from tailrisk.gradients.walk import Side
from tailrisk.simulate import outcomes, rollout

PATHS = 64
LAW = WalkLaw(sampling_probability=0.1)  # most paths jump, many more than once


def ladder(book, **numbers):
    return Ladder(book, LAW, steps=20, **numbers)


def decades(accounts, seed):
    book = reference_book(accounts, seed)
    size = 10.0 ** np.random.default_rng(seed).uniform(-6.0, 0.0, accounts)
    return eqx.tree_at(lambda b: b.quantity, book, size / size.sum())


def tied(accounts, seed):
    """Groups of four equal accounts, in no order."""
    book = reference_book(accounts, seed)
    pick = np.random.default_rng(seed).permutation(np.repeat(np.arange(accounts // 4), 4))
    return LadderBook(book.entry[pick], book.initial_margin[pick], np.full(pick.size, 1.0 / pick.size))


MANY = reference_book(400, 0)
CASES = {  # those of one size, window and halt share a compiled program
    "one-breaker": ladder(reference_book(1, 5), band=0.03),
    "two": ladder(reference_book(2, 6), impact=0.3),
    "three-breaker": ladder(reference_book(3, 7), impact=0.3, band=0.06),
    "many": ladder(MANY),
    "many-moved-margins": ladder(MANY, initial_shift=0.004, maintenance=0.02, fee=0.7),
    "many-breaker": ladder(MANY, band=0.04),
    "breaker-halts-for-good": ladder(reference_book(40, 1), band=0.02, halt=20, window=1),
    "square-root": ladder(reference_book(40, 0), impact=0.03, impact_exponent=0.5, band=0.05),
    "six-decades": ladder(decades(40, 1), band=0.05),
    "ties": ladder(tied(40, 2), band=0.04),
    "ties-without-impact": ladder(tied(40, 2), impact=0.0, band=0.03),
}


def recorded(case, seed=12):
    return outcomes(LadderWalk.build(case), seed, np.arange(PATHS), record=True)


@pytest.mark.parametrize(
    ("accounts", "seed", "entry", "margin", "quantity", "largest", "first"),
    [
        (400, 0, (0.01151684, -0.00915730, -0.00278661), (0.17696982, 0.12757775, 0.08285824),
         (0.00183147, 0.00025344, 0.00241900), 0.0166, -0.03007248),
        (12, 3, (-0.00347899, -0.01297820, 0.04984499), (0.05411274, 0.10184408, 0.22450762),
         (0.03399674, 0.05756578, 0.14728001), 0.1646, -0.03379307),
    ],
    ids=["many-small", "few-large"],
)  # fmt: skip
def test_reference_book(accounts, seed, entry, margin, quantity, largest, first):
    book = reference_book(accounts, seed)
    for got, wanted in ((book.entry, entry), (book.initial_margin, margin), (book.quantity, quantity)):
        np.testing.assert_allclose(got[:3], wanted, atol=5.1e-9)
    assert book.quantity.max() == pytest.approx(largest, abs=5e-5)
    assert float(LadderWalk.build(Ladder(book)).clearing.thresholds[0]) == pytest.approx(first, abs=5e-9)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_selling_one_at_a_time(case):
    out, shown = recorded(case)
    wanted = np.array([sequential(case, path) for path in shown.level])
    np.testing.assert_array_equal(out["sold"], wanted[:, 2])
    np.testing.assert_allclose(out["bad_debt"], wanted[:, 0], atol=1e-13)
    np.testing.assert_allclose(out["fund_income"], wanted[:, 1], atol=1e-13)
    assert 3 <= np.count_nonzero(out["sold"]) < PATHS


@pytest.mark.parametrize("name", ["many", "many-breaker", "square-root"])
def test_slopes_at_fixed_events(name):
    """Against tiny differences, which change no event; a rise moves path and thresholds together."""
    case = CASES[name]
    out, shown = recorded(case)
    busy = np.flatnonzero(out["bad_debt"])[:15]
    assert busy.size > 8
    h = 1e-7
    pairs = {"value_shift": lambda move, path: sequential(case, path + move, rise=move)}
    for parameter in ("initial_shift", "impact"):
        pairs[f"value_{parameter}"] = lambda move, path, p=parameter: sequential(
            case.replace(p, case.get(p) + move), path
        )
    for key, moved in pairs.items():
        ends = np.array([[moved(h, shown.level[i]), moved(-h, shown.level[i])] for i in busy])
        same = ends[:, 0, 2] == ends[:, 1, 2]
        assert same.mean() > 0.8
        np.testing.assert_allclose(
            out[key][busy][same], (ends[:, 0, 0] - ends[:, 1, 0])[same] / (2 * h), rtol=1e-4, atol=1e-9
        )


def test_rounds_approach_from_below():
    walk = LadderWalk.build(CASES["many"])
    clearing = walk.clearing
    breach = np.asarray(clearing.thresholds - clearing.fall)[:-1]
    volumes = np.asarray(clearing.pressure)
    rng = np.random.default_rng(3)
    find = eqx.filter_jit(clearing.first_at_or_below)
    deepest = 0
    for _ in range(50):
        level, start = rng.uniform(-0.2, -0.02), int(rng.integers(0, 300))
        exact = int(find(jnp.int32(start), jnp.asarray(level)))
        counts = [rounds(breach, volumes, float(CASES["many"].impact), level, start, k) for k in range(60)]
        assert counts == sorted(counts)
        assert counts[-1] == exact
        deepest = max(deepest, counts.index(exact))
    assert deepest >= 3


def test_wide_band_is_no_breaker():
    none, wide = (recorded(ladder(MANY, band=band))[0] for band in (np.inf, 1e6))
    assert all(np.array_equal(none[key], wide[key]) for key in none)


def test_narrow_band_sells_in_the_first_step_alone():
    """From then on a fall trips the breaker, and nobody is in breach before there was one."""
    out, shown = recorded(ladder(reference_book(40, 1), band=1e-12, halt=20, window=1))
    np.testing.assert_array_equal(out["sold"], shown.sold[:, 0])
    assert out["sold"].max() > 0


@pytest.mark.parametrize("name", ["six-decades", "many"])
def test_marked_thresholds_are_those_that_matter(name):
    """The state after a step differs across a threshold if and only if it is marked; forced sides are its two limits."""
    case = CASES[name]
    walk = LadderWalk.build(case)
    shown = recorded(case)[1]
    rng = np.random.default_rng(0)

    @eqx.filter_jit
    def across(walk, state):
        found = thresholds(walk, state)

        def limits(level, side):
            near = [walk.advance(state, level + move) for move in (-1e-11, 1e-11)]
            forced = [walk.advance(state, level, side._replace(below=jnp.asarray(low))) for low in (True, False)]
            return [jnp.stack([s.sold.astype(float), s.bad_debt, s.halt.astype(float)]) for s in (*near, *forced)]

        places = jnp.arange(walk.accounts + 1, dtype=jnp.int32)
        margin = Side(jnp.asarray(False), jnp.asarray(0), jnp.asarray(False))
        one = jax.vmap(lambda level, k: limits(level, margin._replace(place=k)))(found.margin, places[:-1])
        two = jax.vmap(lambda level, k: limits(level, margin._replace(place=k, breaker=jnp.asarray(True))))(
            found.breaker, places
        )
        return found, one, two

    marked = {"margin": 0, "breaker": 0}
    for path, step in zip(rng.integers(0, PATHS, 12), rng.integers(1, 19, 12), strict=True):
        state = jax.tree.map(lambda leaf, at=(path, step): jnp.asarray(leaf[at]), shown)
        found, one, two = across(walk, state)
        kinds = [("margin", found.margin_real, one), ("breaker", found.breaker_real, two)]
        for kind, real, (just_below, just_above, low, high) in kinds[: 1 + bool(walk.window)]:
            real = np.asarray(real)
            differs = np.any(np.abs(np.asarray(just_below) - np.asarray(just_above)) > 1e-9, axis=1)
            np.testing.assert_allclose(np.asarray(low)[real], np.asarray(just_below)[real], atol=1e-9)
            np.testing.assert_allclose(np.asarray(high)[real], np.asarray(just_above)[real], atol=1e-9)
            np.testing.assert_array_equal(differs, real, err_msg=kind)
            marked[kind] += real.sum()
    assert marked["margin"] > 0
    assert marked["breaker"] > 0 or not walk.window


def test_density_is_that_of_the_steps():
    walk = LadderWalk.build(ladder(reference_book(1, 5)))
    x = np.linspace(-0.5, 0.5, 200_001)
    density = np.asarray(walk.density(jnp.asarray(x)))
    law = LAW
    assert np.trapezoid(density, x) == pytest.approx(1.0, abs=1e-9)
    variance = law.deviation**2 + law.jump_probability * law.jump_deviation**2
    variance += law.jump_probability * (1 - law.jump_probability) * law.jump_mean**2
    mean = np.trapezoid(x * density, x)
    assert mean == pytest.approx(float(law.jump_probability * law.jump_mean), abs=1e-9)
    assert np.trapezoid((x - mean) ** 2 * density, x) == pytest.approx(float(variance), rel=1e-6)


PARAMETERS = ("maintenance", "initial_shift", "impact", "band", "law.deviation", "law.drift")


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_differentiating_a_ladder_raises(parameter):
    case = ladder(reference_book(3, 7), band=0.05)

    def loss(value):
        moved = eqx.tree_at(lambda tree: reduce(getattr, parameter.split("."), tree), case, value)
        return LadderWalk.build(moved).fee

    with pytest.raises(HardThresholdGradientError, match="differences"):
        jax.grad(loss)(jnp.asarray(case.get(parameter)))


WALK_FIELDS = {
    "thresholds": lambda walk: walk.clearing.thresholds,
    "falls": lambda walk: walk.clearing.lowest,
    "deviation": lambda walk: walk.law.deviation,
    "drift": lambda walk: walk.law.drift,
    "band": lambda walk: walk.band,
}


@pytest.mark.parametrize("where", WALK_FIELDS.values(), ids=WALK_FIELDS)
def test_differentiating_a_path_raises(where):
    walk = LadderWalk.build(ladder(reference_book(3, 7), band=0.05))
    keys = noise_keys(1, "market")

    def loss(value):
        moved = eqx.tree_at(where, walk, value)
        state, _ = rollout(moved, lambda step: noise(keys, 0, step, moved.draws, moved.dtype))
        return moved.outcome(state)["value"]

    primal = where(walk)
    with pytest.raises(HardThresholdGradientError):
        jax.jvp(loss, (primal,), (jnp.ones_like(primal),))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ladder(reference_book(3, 7), maintenance=0.2), "more than maintenance"),
        (lambda: Ladder(LadderBook([0.1], [0.05], [1.0])), "in breach at the start"),
        (lambda: Ladder(LadderBook([0.1, 0.2], [0.05], [1.0])), "one number per account"),
        (lambda: Ladder(reference_book(3, 7), WalkLaw(sampling_probability=0.0)), "never draws the jumps"),
        (lambda: Ladder(reference_book(3, 7), band=-1.0), "band"),
    ],
    ids=["margin", "breached", "shapes", "unsampled-jumps", "band"],
)
def test_ladders_that_cannot_be(make, message):
    with pytest.raises(InputError, match=message):
        LadderWalk.build(make())
