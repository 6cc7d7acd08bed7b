"""Every estimator that applies against every closed form: one or two accounts, one or two steps, a breaker; and the anchors."""

import jax
import numpy as np
import pytest
from closed_forms import one_account, small, two_accounts, two_accounts_apart, two_steps_with_breaker

from tailrisk import anchors
from tailrisk.gradients import (
    ForcedVolume,
    branch,
    conditional,
    controls,
    differences,
    measure_valued,
    residual,
    score,
    shift,
)
from tailrisk.gradients.ladder import sorted_accounts
from tailrisk.simulate import simulate

PRECISE = 0.005  # largest standard error over the value
LIMIT = 3.0  # standard errors
BATCHES = 128  # with 64 the halves of a sound run differ by more than they may in one of forty


def _ladder(debt, quantity, sigma, **more):
    return small(np.log(debt), quantity, deviation=sigma, maintenance=0.02, impact=0.03, **more)


ONE = {"q": 1.0, "debt": 0.93, "m": 0.02, "sigma": 0.05, "impact": 0.03}
TWO = {"q": (0.6, 0.4), "m": 0.02, "sigma": 0.03, "impact": 0.03}
BREAKER = {"q": 1.0, "debt": 0.95, "m": 0.02, "sigma": 0.03, "impact": 0.03, "band": 0.02}
CASES = {
    "one": (_ladder([0.93], [1.0], 0.05), one_account(**ONE)),
    "avalanche": (_ladder((0.935, 0.9185), TWO["q"], 0.03), two_accounts(debt=(0.935, 0.9185), **TWO)),
    "apart": (
        _ladder((0.935, 0.917), TWO["q"], 0.03),
        {"maintenance": two_accounts_apart(debt=(0.935, 0.917), **TWO)},
    ),
    "breaker": (_ladder([0.95], [1.0], 0.03, steps=2, band=0.02, halt=9), two_steps_with_breaker(**BREAKER)),
}
WAYS = {
    "shift": lambda ladder, names, **run: shift.estimate(
        ladder, names, fields=((1, 1.0),) if ladder.has_breaker else None, **run
    ),
    "score": score.estimate,
    "measure-valued": measure_valued.estimate,
    "branch": branch.estimate,
    "conditional": conditional.estimate,
    "residual": residual.estimate,
    "differences": lambda ladder, names, **run: differences.estimate(
        ladder, names, step=1e-3, certify=not ladder.has_breaker, **run
    ),
}
slow = pytest.mark.slow
# way, case, parameter, 64 times so many paths (powers of two)
TABLE = [
    ("shift", "one", "maintenance", 18, slow),
    ("score", "one", "maintenance", 18, slow),
    ("measure-valued", "one", "maintenance", 16, ()),
    ("branch", "one", "maintenance", 8, slow),
    ("branch", "one", "initial_shift", 12, slow),
    ("branch", "one", "impact", 13, slow),
    ("conditional", "one", "maintenance", 8, ()),
    ("conditional", "one", "initial_shift", 8, ()),
    ("conditional", "one", "impact", 8, ()),
    ("residual", "one", "initial_shift", 14, slow),
    ("residual", "one", "impact", 14, slow),
    ("differences", "one", "maintenance", 17, slow),
    ("differences", "one", "initial_shift", 14, slow),
    ("differences", "one", "impact", 13, slow),
    ("shift", "avalanche", "maintenance", 18, slow),
    ("score", "avalanche", "maintenance", 18, slow),
    ("measure-valued", "avalanche", "maintenance", 16, slow),
    ("branch", "avalanche", "maintenance", 8, slow),
    ("conditional", "avalanche", "maintenance", 8, ()),
    ("differences", "avalanche", "maintenance", 17, slow),
    ("shift", "apart", "maintenance", 17, slow),
    ("score", "apart", "maintenance", 17, slow),
    ("measure-valued", "apart", "maintenance", 16, slow),
    ("branch", "apart", "maintenance", 12, slow),
    ("conditional", "apart", "maintenance", 8, ()),
    ("differences", "apart", "maintenance", 17, slow),
    ("shift", "breaker", "maintenance", 17, slow),
    ("score", "breaker", "maintenance", 17, slow),
    ("measure-valued", "breaker", "maintenance", 15, slow),
    ("branch", "breaker", "maintenance", 13, slow),
    ("branch", "breaker", "band", 13, slow),
    ("differences", "breaker", "maintenance", 17, slow),
    ("differences", "breaker", "band", 18, slow),
]


@pytest.mark.parametrize(
    ("way", "case", "parameter", "power"),
    [pytest.param(*row[:4], marks=row[4], id="-".join(row[:3])) for row in TABLE],
)
def test_closed_form(way, case, parameter, power):
    ladder, truth = CASES[case]
    found = WAYS[way](ladder, (parameter,), seed=31, paths=64 * 2**power, batches=BATCHES)
    bias = found.bias[0] if np.isfinite(found.bias[0]) else 0.0
    error, wanted = found.std_error[0], truth[parameter]
    assert error < PRECISE * abs(wanted), f"standard error {error / abs(wanted):.4f} of the value"
    assert abs(found.estimate[0] - bias - wanted) <= LIMIT * error + 1e-10 * abs(wanted), (
        f"z = {(found.estimate[0] - bias - wanted) / max(error, 1e-300):.2f}"
    )
    assert found.accepted.all()


DAY = 1.0 / 365.0
ANCHORS = {
    # leverage, maintenance, horizon, delay (years); derivative of expected bad debt in the maintenance ratio, and the share
    # of it that moving the barrier is off by at 64 checks (it shrinks like one over the checks)
    "K1": (5.0, 0.05, 30 * DAY, DAY, -4.14585, 0.002),
    "K1b": (10.0, 0.01, DAY, 600.0 / 31_536_000.0, -4.07153e-3, 0.01),
}
VOLATILITY, CHECKS = 0.8, 64


def anchor(name):
    """A ladder whose one account is checked as often as the anchor is watched: its barrier is moved as far as checks miss."""
    leverage, m, horizon, *_ = ANCHORS[name]
    deviation = VOLATILITY * np.sqrt(horizon / CHECKS)
    log_debt = np.log1p(-1.0 / leverage) + anchors.MONITORING_SHIFT * deviation
    ladder = small([log_debt], [1.0], deviation=deviation, maintenance=m, impact=0.0, steps=CHECKS)
    return ladder.replace("law.drift", -0.5 * deviation**2)


def slope_at_checks(ladder):
    """Derivative in the maintenance ratio of the probability that the one account is sold, to the last digit.

    The density of those not sold yet is carried on from check to check at Gauss-Legendre nodes measured from the barrier,
    which alone makes it depend on the barrier: through the first step.
    """
    m, drift, deviation = (ladder.get(name) for name in ("maintenance", "law.drift", "law.deviation"))
    barrier = sorted_accounts(ladder)[0][0] - np.log1p(-m)
    points, weights = np.polynomial.legendre.leggauss(6)
    panels = np.arange(int(8.0 * np.sqrt(ladder.steps) - barrier / deviation))
    above = (deviation * (panels[:, None] + 0.5 + 0.5 * points)).reshape(-1)
    weight = np.tile(0.5 * deviation * weights, panels.size)

    def density(move):
        return np.exp(-0.5 * ((move - drift) / deviation) ** 2) / (deviation * np.sqrt(2.0 * np.pi))

    turn = weight[:, None] * density(above[None, :] - above[:, None])
    first = barrier + above
    moved = -(first - drift) / deviation**2 * density(first)
    for _ in range(ladder.steps - 1):
        moved = moved @ turn
    return -float(moved @ weight) / (1.0 - m)


TOUCH = {
    "shift": 13,
    "score": 16,
    "measure-valued": 15,
    "branch": 12,
    "conditional": 12,
    "differences": 15,
}


@pytest.mark.parametrize(
    ("way", "name"),
    [
        pytest.param(way, name, marks=() if (way, name) == ("shift", "K1") else slow, id=f"{way}-{name}")
        for way in TOUCH
        for name in ANCHORS
    ],
)
def test_anchor(way, name):
    """E[BD] = H Put(p^L): the probability H of a touch is what moves with events, the put after the delay moves smoothly.

    The slope of H is known exactly for the checks there are; that of the anchor differs by what moving the barrier leaves.
    """
    leverage, m, horizon, delay, wanted, left = ANCHORS[name]
    barrier = (1.0 - 1.0 / leverage) / (1.0 - m)
    touch = float(anchors.first_passage_probability(1.0, barrier, VOLATILITY, horizon))
    put, slope = jax.value_and_grad(lambda b: anchors.zero_rate_put(b, 1.0 - 1.0 / leverage, VOLATILITY, delay))(
        barrier
    )
    ladder = anchor(name)
    found = WAYS[way](
        ladder, ("maintenance",), functional=ForcedVolume(), seed=32, paths=64 * 2 ** TOUCH[way], batches=BATCHES
    )
    exact, error = slope_at_checks(ladder), found.std_error[0]
    assert error < 0.02 * abs(exact), f"standard error {error / abs(exact):.3f} of the value"
    assert abs(found.estimate[0] - exact) <= LIMIT * error, f"z = {(found.estimate[0] - exact) / error:.2f}"
    assert found.accepted.all()
    value = 100.0 * (exact * float(put) + touch * float(slope) * barrier / (1.0 - m))
    assert abs(value - wanted) <= left * abs(wanted)


@pytest.mark.parametrize("name", ANCHORS)
def test_paths_have_no_derivative_at_the_anchors(name):
    """What automatic differentiation of the hard model gives there is exactly 0 on every path, and the truth is not."""
    out = simulate(controls.dense(anchor(name), "naive"), paths=4096, seed=33)
    assert (out["slope_maintenance"] == 0.0).all()
    assert out["volume"].mean() > 0.01
    assert abs(ANCHORS[name][4]) > 0.0
