"""At what leverage does a bank that targets value-at-risk destabilize the market it trades in?

The Basel leverage cycle of Aymanns, Caccioli, Farmer, Tan (2016): a bank and a fund share an asset; the bank's target leverage
follows its perceived variance. The model is a deterministic map of six numbers with rules of its own, so it is iterated here in
NumPy; its stability follows from the eigenvalues of its automatic Jacobian in double precision. `jit` is used on that Jacobian
alone, which is taken a thousand times.

Of the paper are the mechanism and what its abstract says of size, speed and period. Recomputed by us are all numbers: critical
leverages from the map as it stands here, which agree with another implementation of it, and the period without noise.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import NullFormatter
from scipy import optimize

from tailrisk._fields import Real, count, real
from tailrisk.figures import style
from tailrisk.study.observed import Claim, curve, exact
from tailrisk.study.published import Setting

EXPECTED = {(10, 2.27): 8.6353, (10, 1): 12.5433, (10, 0.5): 17.3675, (10, 0.25): 24.1965}
EXPECTED |= {(5, 2.27): 11.8443, (5, 1): 17.3819, (1, 2.27): 25.4917, (1, 1): 37.8933}
AGAIN = "the map of this file in another implementation, with its own Jacobian; not a number of the paper"
POINT = "fixed point by hand: p = mu, leverage alpha s0^b"
PAPER = "Aymanns, Caccioli, Farmer, Tan (2016), abstract"
SHOWN = (0.2, 0.5)  # of the horizon
MU = 25.0  # fundamental value, USD/unit
LARGE, SMALL = "large bank", "small bank"
FUND = 1  # place of the fund's weight in the state: it is free at the fixed point, where its eigenvalue is 1


class Model(eqx.Module):
    """Numbers of the map."""

    tau: Real = real(unit="year", above=0.0)
    delta: Real = real(unit="1/year", above=0.0)
    horizon: Real = real(unit="year", above=0.0)  # of value-at-risk
    theta: Real = real(unit="1/year", above=0.0)  # speed at which the balance sheet moves to its target
    eta: Real = real(unit="1/year", least=0.0)  # speed at which equity returns
    least_variance: Real = real(unit="1/year", above=0.0)
    alpha: Real = real(unit="1", above=0.0)
    b: Real = real(unit="1")
    equity: Real = real(unit="USD", above=0.0)
    bank_weight: Real = real(unit="1", above=0.0, below=1.0)
    mu: Real = real(unit="USD/unit", above=0.0)
    rho: Real = real(unit="1/year", least=0.0)
    fund_weight: Real = real(unit="1", above=0.0, below=1.0)  # at the fixed point
    noise: Real = real(unit="1", least=0.0)  # a0, a1, b1


class Config(eqx.Module):
    """The map, what is swept, and the paths that are shown."""

    model: Model
    small: Real = real(unit="USD", above=0.0)
    speeds: Real = real(unit="1/year", above=0.0)
    least_bank: Real = real(unit="USD", above=0.0)
    banks: int = count(least=2)
    exponents: Real = real(unit="1")
    start_variance: Real = real(unit="1/year", above=0.0)
    steps: int = count(least=10)
    paths: int = count(least=1)


class State(NamedTuple):
    """Perceived variance, weight of the fund in the asset, price, share owned by the bank, debt, previous price."""

    variance: Any
    weight: Any
    price: Any
    share: Any
    debt: Any
    before: Any


def balance(model, state):
    """Assets and equity of the bank."""
    assets = state.share * state.price / model.bank_weight
    return assets, assets - state.debt


def step(model, state, shock=0.0, np=np):
    """One step of the map; `shock` is the noise s xi of the fund's weight; `np` is the library of the arrays."""
    tau, held = model.tau, model.bank_weight
    assets, equity = balance(model, state)
    target = model.alpha * (state.variance + model.least_variance) ** model.b
    change = tau * model.theta * (target * equity - assets)
    flow = tau * model.eta * (model.equity - equity)
    bank_cash = (1.0 - held) * assets + flow
    fund_cash = (1.0 - state.weight) * (1.0 - state.share) * state.price / state.weight - flow
    move = np.log(state.price / state.before) * model.horizon / tau
    pull = tau * model.rho * (model.mu - state.price) + tau**0.5 * shock
    weight = state.weight + state.weight / state.price * pull
    wanted = held * (bank_cash + change) + weight * fund_cash
    price = wanted / (1.0 - held * state.share - (1.0 - state.share) * weight)
    return State(
        (1.0 - tau * model.delta) * state.variance + tau * model.delta * move**2,
        weight,
        price,
        held * (state.share * price + bank_cash + change) / price,
        state.debt + change,
        state.price,
    )


def fixed_point(model):
    """The state that maps to itself."""
    assets = model.alpha * model.least_variance**model.b * model.equity
    share = model.bank_weight * assets / model.mu
    return State(0.0 * model.mu, model.fund_weight, model.mu, share, assets - model.equity, model.mu)


@jax.jit
def jacobian(model):
    """Of the map at its fixed point, 6 x 6."""
    point = jnp.stack([jnp.asarray(x, float) for x in fixed_point(model)])
    return jax.jacfwd(lambda x: jnp.stack(step(model, State(*x), np=jnp)))(point)


def modulus(model, leverage):
    """Largest modulus of the eigenvalues at a leverage, without that of the fund's weight."""
    full = np.asarray(jacobian(changed(model, alpha=leverage * model.least_variance**-model.b)))
    others = np.delete(np.arange(6), FUND)  # the column of the weight is a unit vector: the rest is a block of its own
    return np.abs(np.linalg.eigvals(full[np.ix_(others, others)])).max(), np.abs(full[:, FUND] - np.eye(6)[FUND]).max()


def critical_leverage(model):
    """Leverage at which the fixed point loses its stability; nan if it keeps it while the bank owns less than all."""
    most = 0.9999 * float(model.mu / (model.bank_weight * model.equity))
    if modulus(model, most)[0] < 1.0:
        return np.nan
    return optimize.brentq(lambda leverage: modulus(model, leverage)[0] - 1.0, 1.1, most, xtol=1e-12, rtol=1e-13)


def changed(model, **new):
    """The model with other numbers."""
    names = list(new)
    values = [np.float64(new[name]) for name in names]
    return eqx.tree_at(lambda m: [getattr(m, name) for name in names], model, values)


def paths(model, start, steps, rng, count, noisy):
    """Price, leverage and equity at every step of several paths; nan from where the map leaves what it is defined for."""
    state, spread, last = State(*(np.full(count, float(x)) for x in start)), np.zeros(count), np.zeros(count)
    rows = np.empty((3, steps + 1, count))
    a0, a1, b1 = np.asarray(model.noise) if noisy else np.zeros(3)
    for t in range(steps + 1):
        assets, equity = balance(model, state)
        rows[:, t] = state.price, assets / equity, equity
        spread = np.sqrt(a0 + a1 * last**2 + b1 * spread**2)
        last = spread * rng.standard_normal(count)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            state = step(model, state, last)
    return rows


def main(config: Config, setting: Setting):
    """Critical leverages over banks, speeds and exponents, and paths of the large and the small bank."""
    setting.need_double("the eigenvalues are compared to four digits and more")
    model, found = config.model, {}
    sizes = np.unique([*np.geomspace(float(config.least_bank), float(model.equity), config.banks), 0.25, 0.5, 1.0])
    for speed in config.speeds:
        values = [critical_leverage(changed(model, theta=speed, equity=equity)) for equity in sizes]
        found["critical leverage", f"theta = {speed:g}"] = curve(sizes, values, unit="1")
        setting.report(f"theta = {speed:g}: critical leverage {values[-1]:.6f} at equity {sizes[-1]:g}")
    values = [critical_leverage(changed(model, b=b)) for b in config.exponents]
    found["critical leverage against b", "theta = 10"] = curve(config.exponents, values, unit="1")
    found["free weight", "change of its column"] = curve(0.0, modulus(model, 5.0)[1], unit="1")

    small = changed(model, equity=config.small)
    point = fixed_point(small)
    residual = max(abs(new - old) for new, old in zip(step(small, point), point, strict=True))
    assets, equity = balance(small, point)
    found["small bank", "residual of the map"] = curve(0.0, residual, unit="1")
    found["small bank", "price at the fixed point"] = curve(0.0, point.price, unit="USD/unit")
    found["small bank", "leverage at the fixed point"] = curve(0.0, assets / equity, unit="1")

    years = np.arange(config.steps + 1) * float(model.tau)
    start = started(model, float(config.start_variance))
    for name, one, noisy, number in (
        (LARGE, model, False, 1),
        (f"{LARGE}, noise", model, True, config.paths),
        (f"{SMALL}, noise", small, True, 1),
    ):
        first = start if one is model else started(one, float(config.start_variance))
        price, leverage, equity = paths(one, first, config.steps, np.random.default_rng(setting.seed), number, noisy)
        if name == LARGE:  # what is drawn: the map has forgotten its start
            shown = (years >= SHOWN[0] * years[-1]) & (years <= SHOWN[1] * years[-1])
            found["price", name] = curve(years[shown], price[shown, 0], unit="USD/unit", paths=1)
            found["leverage", name] = curve(years[shown], leverage[shown, 0], unit="1", paths=1)
        flagged = np.sum((equity <= 0.0) | ~np.isfinite(equity)) / equity.size
        found["flagged steps: equity not above zero", name] = curve(0.0, flagged, unit="fraction", paths=number)
        late = np.log(price[config.steps // 5 :])
        found["deviation of the log price", name] = curve(0.0, np.nanstd(late, axis=0).mean(), unit="1", paths=number)
    return found


def started(model, variance):
    """Balance sheet at target for a perceived variance, price at fundamental value."""
    assets = model.alpha * (variance + model.least_variance) ** model.b * model.equity
    share = model.bank_weight * assets / model.mu
    return State(variance, model.fund_weight, model.mu, share, assets - model.equity, model.mu)


def checks(found):
    """The fixed point of the small bank; the table of critical leverages; no effect of b; the directions."""
    small = {series: one.y[0] for (panel, series), one in found.items() if panel == "small bank"}
    yield exact("small bank, price", MU, small["price at the fixed point"], 0.0, POINT)
    yield exact("small bank, leverage", 75.0, small["leverage at the fixed point"], 75.0 * 1e-12, POINT)
    yield exact("small bank, residual of the map", 0.0, small["residual of the map"], 1e-14, POINT)
    moved = found["free weight", "change of its column"].y[0]
    yield exact("the fund's weight is free", 0.0, moved, 1e-13, "derived: its column of the Jacobian is a unit vector")
    curves = {}
    for (panel, series), one in found.items():
        if panel == "critical leverage":
            curves[float(series.removeprefix("theta = "))] = one
    for (speed, equity), value in EXPECTED.items():
        one = curves[speed]
        got = one.y[np.argmin(np.abs(one.x - equity))]
        yield exact(f"critical leverage, theta {speed}, equity {equity}", value, got, 1e-4 * value, AGAIN)
    spread = np.ptp(found["critical leverage against b", "theta = 10"].y)
    yield exact(
        "critical leverage, largest change over b",
        0.0,
        spread,
        1e-8,
        "perceived variance moves with squares of returns, so b is in no eigenvalue",
    )
    published = AGAIN, f"{PAPER}: slower adjustment is stabilizing"
    rises = max(float(np.max(np.diff(one.y[np.isfinite(one.y)]))) for one in curves.values())
    yield exact("largest rise with the size of the bank", 0.0, rises, 0.0, published[0], side=1)
    speeds = sorted(curves)
    for slow, fast in pairwise(speeds):
        gain = np.nanmin(curves[slow].y - curves[fast].y)
        yield exact(f"least gain of theta {slow:g} over {fast:g}", 0.0, gain, 0.0, published[1], side=-1)
    wide, narrow = (found["deviation of the log price", name].y[0] for name in (LARGE, f"{SMALL}, noise"))
    yield exact(
        "large bank: deviation without noise over small bank's with",
        5.0,
        wide / narrow,
        0.0,
        "its fixed point is unstable: cycles of its own",
        side=-1,
    )


def card(found):
    """Directions are published, the numbers are ours."""
    ten, over_b = found["critical leverage", "theta = 10"], found["critical leverage against b", "theta = 10"].y
    at = (int(np.argmin(np.abs(ten.x - equity))) for equity in (0.25, 1.0, 2.27))
    ours = ", ".join(f"{ten.y[k]:.4f} at equity {ten.x[k]:g}" for k in at)
    yield Claim(
        "critical leverage against the size of the bank",
        "the best policy depends on leverage, the relative size of the bank, and noise",
        f"{ours} (theta 10, fund weight 0.5); the same for all b to {np.ptp(over_b):.0e}",
        f"{PAPER}; numbers of ours, from the map as stated in experiments/basel_cycle.py",
    )
    slow = found["critical leverage", "theta = 1"]
    yield Claim(
        "speed of adjustment",
        "lowering it decreases systemic risk dramatically",
        f"critical leverage of the large bank {slow.y[-1]:.2f} at theta 1, {ten.y[-1]:.2f} at theta 10",
        PAPER,
    )
    price = found["price", LARGE]
    crashes = price.x[1:][(price.y[1:] < MU) & (price.y[:-1] >= MU)]
    period = np.diff(crashes).mean() if crashes.size > 1 else np.nan
    yield Claim(
        "period of bubble and crash",
        "approximately 10-15 years",
        f"{period:.1f} years (large bank, no noise, alpha 0.075)",
        PAPER,
    )


def draw(found):
    """Left: critical leverage (assets over equity) against the equity of the bank (USD) for three speeds of adjustment (1/year).

    Inset: the same at 10 a year against the exponent b of the leverage target. Right: price (USD) and leverage of the large bank
    over time (years) without noise. Nothing that is drawn is sampled.
    """
    figure, axes = style.new_page(2, 2, height=2.9, width_ratios=[1.0, 1.15])
    for ax in axes[:, 0]:
        ax.remove()
    left = figure.add_subplot(axes[0, 0].get_gridspec()[:, 0])
    curves = [(series, one) for (panel, series), one in found.items() if panel == "critical leverage"]
    for (series, one), color, marker in zip(curves, (style.GREEN, style.BLUE, style.VERMILION), "s^o", strict=False):
        speed = series.removeprefix("theta = ")
        left.plot(one.x, one.y, color=color, marker=marker, ms=2.4, label=f"speed {speed} / year")
    left.set(
        xscale="log", yscale="log", xlabel="Equity of the bank (USD)", ylabel="Critical leverage (assets / equity)"
    )
    left.set_ylim(3.0, 250.0)
    left.set_yticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    left.yaxis.set_minor_formatter(NullFormatter())
    left.legend(loc="upper right")
    inset, over_b = left.inset_axes((0.14, 0.15, 0.38, 0.17)), found["critical leverage against b", "theta = 10"]
    inset.plot(over_b.x, over_b.y, "o-", color=style.VERMILION, ms=2.4)
    inset.set_ylim(8.0, 9.2)
    inset.set_xlabel("exponent b", fontsize=6, labelpad=1)
    inset.tick_params(labelsize=6)
    for ax, panel, label in ((axes[0, 1], "price", "Price (USD)"), (axes[1, 1], "leverage", "Leverage")):
        one = found[panel, LARGE]
        shown = one.y > 0.0  # leverage of a bank that owes more than it has means nothing
        ax.plot(one.x[shown], one.y[shown], color=style.BLACK, lw=0.8)
        ax.set_ylabel(label)
    axes[0, 1].set_title("Large bank, no noise; leverage above 50 is cut off", loc="left")
    axes[1, 1].set_ylim(0.0, 50.0)
    axes[0, 1].tick_params(labelbottom=False)
    axes[1, 1].set_xlabel("Time (years)")
    return figure
