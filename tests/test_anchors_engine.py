"""Closed forms reproduced by the whole engine, with its own standard errors, which are bounded as well.

The engine looks at the price at its steps. A barrier seen at steps is the barrier of the continuous law moved away by
exp(-0.5826 sigma sqrt(dt)) (K2), so tests of continuous anchors move the maintenance rate the other way. K1b is not
repeated here: with a distance of 2.9 deviations of the delay between sale and bankruptcy, the overshoot of a step of a
minute alone changes its value by 8 %.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import GivenBook, long_with_level
from scipy.stats import chi2

from tailrisk import anchors, feedback, impact, liquidation, margin, market, oracle, waterfall
from tailrisk._fields import parse_duration
from tailrisk._streams import Noise
from tailrisk.book import LeverageMixture
from tailrisk.clearing import Exact, Rounds
from tailrisk.data.series import PriceArray
from tailrisk.scenario import Scenario, SmoothLadder, SortedLadder
from tailrisk.simulate import outcomes, simulate

CHECKS = 120
SIGMA, DAYS = 0.8, 30.0


def world(**parts):
    """One isolated long of one unit at 100 and leverage 5 under a driftless law; nobody moves the price."""
    base = {
        "market": market.GeometricBrownian(SIGMA),
        "book": GivenBook([1.0], [20.0]),
        "margin": margin.Flat(0.05, 0.2),
        "impact": impact.Linear(impact.ConstantDepth(1.0), 0.0),
        "liquidation": liquidation.Full(0.0),
        "waterfall": waterfall.Waterfall(deleverage="none"),
        "positions": SortedLadder(clearing=Rounds(1)),
        "price": [100.0],
        "horizon": "30d",
        "step": "6h",
    }
    return Scenario(**base | parts)


def estimate(values):
    values = np.asarray(values, np.float64)
    return values.mean(), values.std(ddof=1) / np.sqrt(values.size)


def assert_near(values, wanted, largest_error, label=""):
    """Within three standard errors, and the standard error small enough to mean something."""
    mean, error = estimate(values)
    assert error <= largest_error, f"{label}: standard error {error:.3g} above {largest_error:.3g}"
    assert abs(mean - wanted) <= 3.0 * error, f"{label}: {mean:.5g} +- {error:.2g}, expected {wanted:.5g}"


def seen_at_steps(rate, volatility, step_days):
    """Maintenance rate whose barrier, seen at steps, acts like that of `rate` seen always."""
    shift = anchors.MONITORING_SHIFT * volatility * np.sqrt(step_days / 365.0)
    return 1.0 - (1.0 - rate) * np.exp(-shift)


def delayed_at_steps(rate, checks, delay_days=1.0, points=2**13):
    """E[BD] of K1 where the barrier is watched `checks` times: the density of the survivors carried on step by step."""
    dt = DAYS / checks / 365.0
    sd, barrier = SIGMA * np.sqrt(dt), np.log(0.8 / (1.0 - rate))
    x = np.linspace(-1.8, 1.8, points, endpoint=False)
    h = x[1] - x[0]
    kernel = np.exp(-0.5 * ((x + 0.5 * sd**2) / sd) ** 2) / (sd * np.sqrt(2 * np.pi)) * h
    turn = np.fft.rfft(np.fft.ifftshift(kernel))
    put = np.asarray(anchors.zero_rate_put(100.0 * np.exp(x), 80.0, SIGMA, delay_days / 365.0))
    start = np.exp(-0.5 * ((x + 0.5 * sd**2) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
    # the barrier lies inside a cell: count that cell by the part of it that is below
    below = np.clip((barrier - (x - 0.5 * h)) / h, 0.0, 1.0)
    total, density = 0.0, start
    for check in range(checks):
        if check:
            density = np.fft.irfft(np.fft.rfft(density) * turn, points)
        total += (density * below * put).sum() * h
        density = density * (1.0 - below)
    return total


def test_k1_steps_converge_to_the_closed_form():
    """The reference of the next test tends to K1 as the steps shrink, once the barrier is moved: error in 1/n."""
    errors = []
    for checks in (120, 480, 1920):
        rate = seen_at_steps(0.05, SIGMA, DAYS / checks)
        errors.append(delayed_at_steps(rate, checks) / 0.0902820 - 1.0)
    assert abs(errors[-1]) < 0.01
    assert errors[0] > 3.0 * errors[1] > 9.0 * errors[2] > 0.0


@pytest.fixture(scope="module")
def delayed():
    """Outcomes with the mark a day late, at maintenance 5 % and at 5 % moved by K2; one program."""
    found = {}
    for name, rate in (("raw", 0.05), ("moved", seen_at_steps(0.05, SIGMA, DAYS / CHECKS))):
        late = world(horizon="31d", oracle=oracle.Lagged("1d", slots=4), margin=margin.Flat(rate, 0.2))
        found[name] = rate, simulate(late.build(np.float32), paths=2**16, chunk=2**13)
    return found


@pytest.mark.parametrize("name", ["raw", "moved"])
def test_k1_sold_exactly_a_delay_after_touching(delayed, name):
    """With a mark of a day ago the account is sold at the price a day after its price touched p^L.

    The run lasts a delay longer than the horizon, so touches up to the horizon are sold; what fell through p^B in that
    last day without having touched in time is an open deficit and no part of K1.
    """
    rate, result = delayed[name]
    closed = result["bad_debt"].astype(np.float64) - result["open_deficit"]
    assert_near(closed, delayed_at_steps(rate, CHECKS), 0.0028, f"K1 {name}")


def test_k2_watched_at_steps(delayed):
    """Touched at 120 checks: 0.4624 (K2), the closed form at the barrier moved away 0.46161, moved back 0.492986."""
    raw, moved = (delayed[name][1]["liquidated_share"] for name in ("raw", "moved"))
    away = anchors.monitored_barrier(80.0 / 0.95, SIGMA, DAYS / CHECKS / 365.0)
    form = float(anchors.first_passage_probability(100.0, away, SIGMA, DAYS / 365.0))
    assert form == pytest.approx(0.46161, abs=6e-6)
    assert_near(raw, form, 0.002, "K2 raw")
    assert_near(moved, 0.492986, 0.002, "K2 moved")


@pytest.mark.slow
def test_k1_directly_at_480_checks():
    """E[BD] = 0.0902820 within three standard errors; the error of the steps (0.8 %) is below one of them."""
    rate = seen_at_steps(0.05, SIGMA, DAYS / 480)
    assert delayed_at_steps(rate, 480) == pytest.approx(0.0902820, rel=0.04)
    late = world(horizon="31d", step="90min", oracle=oracle.Lagged("1d", slots=16), margin=margin.Flat(rate, 0.2))
    result = simulate(late.build(np.float32), paths=2**18, chunk=2**13)
    assert_near(result["bad_debt"].astype(np.float64) - result["open_deficit"], 0.0902820, 0.0011, "K1")
    assert_near(result["liquidated_share"], 0.492986, 0.0011, "K2 at 480 checks")


def watched(**parts):
    """Marks posted every `heartbeat` only: a check every so many steps, on one grid and with the same noise."""
    heartbeat = parts.pop("heartbeat", "6h")
    thirds = {"book": GivenBook([1 / 3] * 3, [20 / 3] * 3)}  # three accounts, so that K16 runs the same program
    return world(oracle=oracle.Deviation(1e9, heartbeat), **thirds | parts)


@pytest.fixture(scope="module")
def strides():
    """Bad debt of the K1 account without delay, checked every 1, 4, 12, 30 and 120 of 120 steps."""
    beats = {4: "6h", 16: "1d", 48: "3d", 120: "7.5d", 480: "30d"}
    return {n: simulate(watched(heartbeat=b).build(np.float32), paths=2**15, chunk=2**13) for n, b in beats.items()}


@pytest.mark.parametrize(
    ("every", "value", "error"),
    [(4, 0.0010, 4e-4), (16, 0.066, 0.004), (48, 0.339, 0.012), (120, 0.771, 0.018), (480, 1.780, 0.03)],
)
def test_k21_checked_every_n_steps(strides, every, value, error):
    """K21, in units of 30 d / 480; the published values have a standard error of about 0.01 at the largest."""
    found = strides[every]["bad_debt"]
    mean, own = estimate(found)
    published = 0.01 * value / 1.78 + 5e-5
    assert own <= error
    assert abs(mean - value) <= 3.0 * np.hypot(own, published), f"{mean:.5g} +- {own:.2g}, published {value}"


def test_k21_rises_to_the_put(strides):
    """Rarer checks cost more, pairwise on the same noise, up to the put of an account that is never closed."""
    for often, rarely in ((4, 16), (16, 48), (48, 120), (120, 480)):
        more, error = estimate(strides[rarely]["bad_debt"].astype(np.float64) - strides[often]["bad_debt"])
        assert more > 3.0 * error
    put = float(anchors.zero_rate_put(100.0, 80.0, SIGMA, DAYS / 365.0))
    assert put == pytest.approx(1.7917, abs=6e-5)
    assert_near(strides[480]["bad_debt"], put, 0.03, "put")


K16 = {"1d": (1.469e-3, 0.1439, 0.6334), "30d": (0.5877, 0.8058, 0.9365)}


@pytest.mark.parametrize("horizon", K16)
def test_k16_probability_of_liquidation(horizon):
    """H at leverage 10, 20, 50; the accounts fall one after the other, so the share of the book says who has fallen."""
    step = float(parse_duration(horizon)) * 365.0 / CHECKS
    book = GivenBook([1.0, 10.0, 100.0], [10.0, 50.0, 200.0])
    rate = seen_at_steps(0.005, 0.6, step)
    some = watched(
        market=market.GeometricBrownian(0.6),
        book=book,
        margin=margin.Flat(rate, rate),
        horizon=horizon,
        step=f"{step}d",
        heartbeat=f"{step}d",
    )
    share = simulate(some.build(np.float32), paths=2**15, chunk=2**13)["liquidated_share"] * 111.0
    for value, above, largest in zip(K16[horizon], (110.5, 109.5, 99.5), (0.003, 0.003, 0.003), strict=True):
        assert_near(share > above, value, largest, f"K16 {horizon}")


def test_k4_is_the_price_at_which_the_engine_sells():
    """p0 (1 - 1/L) / (1 - m) = 54216.87: held at a cent above, sold at a cent below."""
    for price, sold in ((54216.88, 0.0), (54216.86, 1.0)):
        some = world(
            market=market.Replay(PriceArray([60000.0, price], "1min")),
            book=GivenBook([1.0], [6000.0]),
            margin=margin.Flat(0.004, 0.1),
            price=[60000.0],
            horizon="1min",
            step="1min",
        )
        assert outcomes(some.build(np.float64), 0, np.arange(1))[0]["liquidated_share"] == sold


def test_k20_one_step_of_200_000_accounts():
    """Loss of a step from tables against adding up 200,000 accounts of all leverages, at a fill far below."""
    spot, fall = 100.0, 0.83
    accounts = LeverageMixture(1e9, 200_000, long_share=0.7, seed=4)
    rule = margin.Flat(0.005, 0.01)
    some = world(
        market=market.Replay(PriceArray([spot, spot * fall], "1min")),
        book=accounts,
        margin=rule,
        horizon="1min",
        step="1min",
    )
    found = outcomes(some.build(np.float64), 0, np.arange(1))[0]
    given = accounts.build(np.array([spot]), rule, 0)
    quantity, entry = np.asarray(given.quantity)[:, 0], np.asarray(given.entry)[:, 0]
    equity = np.asarray(given.cash) + quantity * (spot * fall - entry)
    sold = equity < 0.005 * np.abs(quantity) * spot * fall
    assert 0.1 < np.abs(quantity[sold]).sum() / np.abs(quantity).sum() < 0.9
    assert found["bad_debt"][0] == pytest.approx(np.maximum(-equity, 0.0).sum(), rel=1e-12)
    assert found["forced_notional"][0] == pytest.approx(np.abs(quantity[sold]).sum() * spot * fall, rel=1e-12)


def test_k3_cascade_sizes_are_borel():
    """Thresholds like a Poisson process, unit sizes, permanent linear impact: cascades have the law of Borel(R).

    One long ladder; each cascade starts with the accounts above a place sold, and a fall of news of 1e-4 of a mean gap
    that just passes the next threshold. Places are 40 accounts apart, so cascades hardly ever share an account.
    """
    seeds, apart, gap = 4000, 40, 1e-6
    levels = -np.cumsum(gap * np.random.default_rng(11).standard_exponential(apart * (seeds + 5)))
    some = world(
        market=market.Replay(PriceArray([100.0, 100.0 * np.exp(-2e-4 * gap)], "1min")),
        book=GivenBook(np.ones(levels.size), long_with_level(levels, 0.01)),
        margin=margin.Flat(0.01, 0.01),
        positions=SortedLadder(clearing=Exact()),
        horizon="1min",
        step="1min",
    )

    def size(system, place):
        state = system.init()
        first = jnp.stack([place, jnp.zeros_like(place)])
        held = state.books.positions._replace(sold=first, ordered=first)
        start = system.cascade.positions.level[0, place] + 1e-4 * gap
        state = state._replace(path=start[None], books=state.books._replace(positions=held))
        return system.step(state, Noise(jnp.zeros(0), jnp.zeros(0)))[1].volume[0]

    run = eqx.filter_jit(jax.vmap(size, in_axes=(None, 0)))
    places = jnp.arange(seeds, dtype=jnp.int32) * apart
    for branching in (0.3, 0.5, 0.7):
        permanent = impact.Linear(impact.ConstantDepth(1.0), branching * gap, memory="inf y")
        system = eqx.tree_at(lambda s: s.impact, some, permanent).build(np.float64)
        sizes = np.rint(np.asarray(run(system, places))).astype(int)
        assert sizes.min() == 1
        chances = np.asarray(feedback.borel_pmf(jnp.asarray(branching), jnp.arange(1.0, 200.0)))
        last = int((seeds * chances >= 5.0).sum())  # larger cascades are one class
        observed = np.bincount(np.minimum(sizes, last + 1), minlength=last + 2)[1:]
        expected = seeds * np.append(chances[:last], 1.0 - chances[:last].sum())
        statistic = ((observed - expected) ** 2 / expected).sum()
        assert statistic < chi2.ppf(0.999, last), f"R = {branching}: {observed} against {expected}"
        assert_near(sizes, 1.0 / (1.0 - branching), 0.09, f"K3 mean at R = {branching}")


H = 1.0 / 1000.0  # of the grid below, in log price
NODES = 500


def uniform(shock, steps=40, **parts):
    """A uniform density of one unit per cell of a smooth ladder, one fall of news, then nothing."""
    cells = round(2.6 / H)
    centers = 0.1 - H * (np.arange(100, 100 + NODES) + 0.5)  # the middles of cells from the price down
    rate = 1e-9
    book = GivenBook(np.ones(NODES), long_with_level(centers, 0.0))
    series = PriceArray(100.0 * np.exp(-shock * np.minimum(np.arange(steps + 1), 1.0)), "1min")
    base = {
        "market": market.Replay(series),
        "book": book,
        "margin": margin.Flat(rate, 0.1),
        "positions": SmoothLadder(cells=cells, clearing=Rounds(1)),
        "horizon": f"{steps}min",
        "step": "1min",
    }
    return outcomes(world(**base | parts).build(np.float64), 0, np.arange(1), record=True)


def test_cas01_rounds_of_a_uniform_ladder_are_geometric():
    """One round a step: the shock, then R of it, R^2, ...; to 1e-5, and in total shock / (1 - R)."""
    for gain in (0.25, 0.5, 0.8):
        slope = gain * H  # log fall per unit; there are 1/H units per log price
        linear = impact.Linear(impact.ConstantDepth(1.0), slope, memory="inf y")
        result, flow = uniform(0.02, impact=linear)
        volume = flow.volume[0, :12, 0] * H
        np.testing.assert_allclose(volume, 0.02 * gain ** np.arange(12), rtol=1e-5)
        total = 0.02 * (1.0 - gain**41) / (1.0 - gain)
        np.testing.assert_allclose(result["market_fall"], total, rtol=1e-7)
        if gain < 0.6:
            np.testing.assert_allclose(result["market_fall"], feedback.linear_feedback(0.02, gain).drop, rtol=1e-7)


def test_cas02_square_root_impact_has_a_finite_fall_for_a_small_shock():
    """D = ((a + sqrt(a^2 + 4x)) / 2)^2 = 0.0164039 at a = .05, x = .01, and a^2 out of nearly nothing."""
    root = impact.SquareRoot(impact.ConstantDepth(1.0 / H), volatility=0.05, core=1e-18, memory="inf y")
    for shock, value, tolerance in ((0.01, 0.0164039, 5e-8), (1e-9, 0.05**2, 5e-8)):
        result, _ = uniform(shock, impact=root)
        form = float(feedback.square_root_feedback(jnp.asarray(shock), jnp.asarray(0.05)))
        assert form == pytest.approx(value, abs=tolerance)
        np.testing.assert_allclose(result["market_fall"], form, rtol=1e-6)


def test_a_branching_number_above_one_sells_the_whole_ladder():
    """Runaway: what stops the fall is the end of the book, and the price stays finite."""
    linear = impact.Linear(impact.ConstantDepth(1.0), 1.5 * H, memory="inf y")
    result, _ = uniform(0.002, impact=linear)
    assert result["liquidated_share"][0] == pytest.approx(1.0, rel=1e-12)
    assert result["market_fall"][0] == pytest.approx(0.002 + 1.5 * H * NODES, rel=1e-9)
