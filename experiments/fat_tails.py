"""Does leverage of value investors make the tails of returns fat while it calms ordinary days?

A replication of Thurner, Farmer, Geanakoplos (2012): ten funds buy what is cheap with borrowed money against a noise trader, and
must sell when the price falls because their leverage is capped. Its rules are its own; it is written as a system, so that
the one scan of the project runs it; every path carries all caps on leverage on the same noise. The fundamental value is 1.

Of the paper are the mechanism and its message that leverage causes fat tails and clustered volatility. Recomputed by us are all
numbers: the table of the checks is that of another implementation of these rules, and no exponent of the paper is quoted.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tailrisk._fields import Real, count, real
from tailrisk._streams import Draws, Noise
from tailrisk.figures import style
from tailrisk.simulate import AbstractSystem, outcomes
from tailrisk.study.observed import Claim, curve, exact, sampled
from tailrisk.study.published import Setting
from tailrisk.tails.extremes.thresholds import hill

AGAIN = "another implementation of the rules of this file, 64 markets x 100,000 steps; not a number of the paper"
TABLE = {  # at lambda_max 1, 5, 10
    "kurtosis": (3.5, 21.0, 52.7),
    "Hill exponent, worst 2 %": (6.79, 3.27, 2.41),
    "Hill exponent, worst 0.5 %": (9.23, 2.81, 1.70),
    "99.9 % loss": (0.1058, 0.1769, 0.2960),
    "standard deviation": (0.0296, 0.0227, 0.0231),
    "defaults": (0.001, 0.384, 0.643),
    "autocorrelation, lag 1": (0.04, 0.18, 0.20),
    "autocorrelation, lag 20": (0.02, 0.10, 0.11),
}
ROUNDED = {"kurtosis": 0.05, "99.9 % loss": 5e-5, "standard deviation": 5e-5, "defaults": 5e-4}  # half a digit
# largest standard error, of the value: few crashes make the kurtosis, and the worst losses at a cap of 5
MOST = {"kurtosis": 0.25, "99.9 % loss": 0.1, "standard deviation": 0.02}
UNITS = {"defaults": "1/(fund 1000 steps)"}
FULL = 64 * 100_000  # market-steps of the table
BISECTIONS, LOWEST, HIGHEST = 40, 0.01, 5.0
ALPHA, FLOW, HURDLE, RUINED, AWAY = (
    0.1,
    0.15,
    0.005,
    0.1,
    100,
)  # performance average, flow, its hurdle; default, absence


class Config(eqx.Module):
    """Markets, steps, caps on leverage, and the numbers of the model."""

    markets: int = count(least=2)
    steps: int = count(least=100)
    caps: Real = real(unit="1", least=0.0)
    persistence: Real = real(unit="1", least=0.0, below=1.0)
    deviation: Real = real(unit="1", above=0.0)
    shares: Real = real(unit="units", above=0.0)
    aggressions: Real = real(unit="1", above=0.0)
    wealth: Real = real(unit="USD", above=0.0)


class Traders(NamedTuple):
    """Demand of the noise trader (log), price, and of every fund under every cap: shares, cash, performance, absence."""

    demand: Float[Array, ""]
    price: Float[Array, " caps"]
    shares: Float[Array, "funds caps"]
    cash: Float[Array, "funds caps"]
    performance: Float[Array, "funds caps"]
    away: Float[Array, "funds caps"]  # steps until the fund is back
    defaults: Float[Array, " caps"]


class Market(AbstractSystem):
    """One asset, a noise trader, and funds with capped leverage. Defaults are counted after the first tenth of the steps."""

    caps: Real = real(unit="1", least=0.0)
    persistence: Real = real(unit="1", least=0.0, below=1.0)
    deviation: Real = real(unit="1", above=0.0)
    issued: Real = real(unit="units", above=0.0)
    aggressions: Real = real(unit="1", above=0.0)
    wealth: Real = real(unit="USD", above=0.0)
    steps: int = eqx.field(static=True, default=1_000)
    dtype: Any = eqx.field(static=True, default=None)

    @property
    def draws(self) -> Draws:
        return Draws(normals=1)

    def init(self):
        shape = (self.aggressions.size, self.caps.size)
        zero = jnp.zeros(shape, self.dtype)
        price = jnp.ones(shape[1], self.dtype)
        demand = jnp.log(self.issued)
        begin = Traders(demand, price, zero, zero + self.wealth, zero, zero, jnp.zeros(shape[1], self.dtype))
        return begin, jnp.zeros((), self.dtype)

    def step(self, state, noise: Noise):
        """Demand moves, the market clears, performance and flows follow, the ruined leave."""
        old, clock = state
        rho = self.persistence
        demand = rho * old.demand + self.deviation * noise.normal[0] + (1.0 - rho) * jnp.log(self.issued)
        active = old.away <= 0.0
        price = self.cleared(jnp.exp(demand), old.shares, old.cash, active)

        before = old.shares * old.price[None, :]
        owned = before + old.cash
        change = (price / old.price - 1.0)[None, :]
        gain = change * jnp.where(owned > 0.0, before / jnp.where(owned > 0.0, owned, 1.0), 0.0)
        performance = (1.0 - ALPHA) * old.performance + ALPHA * gain
        worth = old.shares * price[None, :] + old.cash
        invested = self.leverage(price) * jnp.maximum(worth, 0.0)
        flow = jnp.maximum(-1.0, FLOW * (performance - HURDLE)) * worth
        cash, shares = worth - invested + flow, invested / price[None, :]
        ruined = active & (worth + flow <= RUINED * self.wealth)

        back = ~active & (old.away <= 1.0)
        fresh = ruined | ~active
        zero = jnp.zeros_like(cash)
        new = Traders(
            demand,
            price,
            jnp.where(fresh, zero, shares),
            jnp.where(active, jnp.where(ruined, zero, cash), jnp.where(back, zero + self.wealth, zero)),
            jnp.where(fresh, zero, performance),
            jnp.where(ruined, zero + AWAY, jnp.maximum(old.away - 1.0, 0.0)),
            old.defaults + jnp.where(clock >= self.steps // 10, jnp.sum(ruined, axis=0).astype(self.dtype), 0.0),
        )
        return (new, clock + 1.0), jnp.log(price)

    def leverage(self, price):
        """Value demanded over wealth: min(beta m, cap) for a mispricing m = 1 - p above zero, else nothing."""
        cheap = jnp.maximum(1.0 - price, 0.0)
        return jnp.minimum(self.aggressions[:, None] * cheap[None, :], self.caps[None, :])

    def cleared(self, demand, shares, cash, active):
        """Price at which demand and funds take all shares, by bisection; wealth below zero demands nothing."""

        def halve(_, ends):
            low, high = ends
            middle = 0.5 * (low + high)
            worth = jnp.where(active, jnp.maximum(shares * middle[None, :] + cash, 0.0), 0.0)
            wanted = demand + jnp.sum(self.leverage(middle) * worth, axis=0)
            above = wanted > self.issued * middle
            return jnp.where(above, middle, low), jnp.where(above, high, middle)

        ends = jnp.full_like(self.caps, LOWEST), jnp.full_like(self.caps, HIGHEST)
        low, high = jax.lax.fori_loop(0, BISECTIONS, halve, ends)
        return 0.5 * (low + high)

    def outcome(self, state):
        return {f"defaults {k}": state[0].defaults[k] for k in range(self.caps.size)}


def system(config, dtype):
    """The market of a config, in a precision."""
    numbers = {name: jnp.asarray(getattr(config, name), dtype) for name in ("persistence", "deviation", "wealth")}
    numbers |= {name: jnp.atleast_1d(jnp.asarray(getattr(config, name), dtype)) for name in ("caps", "aggressions")}
    return Market(**numbers, issued=jnp.asarray(config.shares, dtype), steps=config.steps, dtype=np.dtype(dtype))


def main(config: Config, setting: Setting):
    """Statistics of returns over the caps, losses and Hill plots of some, errors from leaving out groups of markets."""
    logs, defaults = [], []
    model = system(config, setting.dtype)
    for start in range(0, config.markets, 16):
        numbers = np.arange(start, min(start + 16, config.markets))
        ended, shown = outcomes(model, setting.seed, numbers, lanes=16, record=True)
        logs.append(np.asarray(shown)[:, config.steps // 10 :].astype(float))
        defaults.append(np.stack([ended[f"defaults {k}"] for k in range(model.caps.size)], axis=1))
    log_price, ruin = np.concatenate(logs), np.concatenate(defaults).astype(float)
    kept = log_price.shape[1]
    found, rows, caps = {}, [], np.atleast_1d(config.caps)
    size = {"paths": config.markets * config.steps}
    for k, cap in enumerate(caps):
        one, rate = log_price[..., k], 1_000.0 * ruin[:, k] / (kept * np.size(config.aggressions))
        rows.append(with_errors(one, rate))
        if cap in (1.0, 5.0, 10.0, 20.0):
            at, ranks, tails = loss_tails(one)
            for panel, x, (y, error) in zip(
                ("P(loss above x)", "Hill exponent over share of losses"), (at, ranks), tails, strict=True
            ):
                found[panel, f"lambda_max {cap:g}"] = curve(x, y, error, unit="1", **size)
        words = (f"{name} {rows[-1][0][j]:.3g}" for j, name in enumerate(TABLE))
        setting.report(f"lambda_max {cap:g}: " + ", ".join(words))
    value, error = np.array(rows).transpose(1, 2, 0)
    for j, name in enumerate(TABLE):
        found["statistics", name] = curve(caps, value[j], error[j], unit=UNITS.get(name, "1"), **size)
    if 0.0 in caps:
        alone = log_price[..., list(caps).index(0.0)]
        square = (alone**2).mean(axis=1)
        mean, spread = square.mean(), square.std(ddof=1) / np.sqrt(square.size)
        found["noise trader alone", "variance of the log price"] = curve(0.0, mean, spread, unit="1", **size)
        law = float(config.deviation) ** 2 / (1.0 - float(config.persistence) ** 2)
        found["noise trader alone", "formula"] = curve(0.0, law, unit="1")
    return found


def losses_of(log_price):
    """Negative returns of steps that start with a price below value, sign changed."""
    returns = np.diff(log_price, axis=1)[log_price[:, :-1] < 0.0]
    return -returns[returns < 0.0]


def statistics(log_price, rate):
    """The rows of the table."""
    moves = np.diff(log_price, axis=1)
    returns = moves[log_price[:, :-1] < 0.0]
    centered = returns - returns.mean()
    losses = -returns[returns < 0.0]
    top = np.partition(losses, -int(0.03 * losses.size))[-int(0.03 * losses.size) :]  # the others are never looked at
    found = [np.mean(centered**4) / np.mean(centered**2) ** 2]
    for share in (0.02, 0.005):
        found.append(1.0 / float(hill(top, [int(share * losses.size)]).value[0]))
    found += [np.sort(top)[-1 - int(0.001 * losses.size)], returns.std(), rate.mean()]
    size = np.abs(moves)
    size = size - size.mean(axis=1, keepdims=True)
    for lag in (1, 20):
        found.append(np.mean(np.mean(size[:, lag:] * size[:, :-lag], axis=1) / np.mean(size**2, axis=1)))
    return np.array(found)


def with_errors(log_price, rate):
    """Statistics and their standard errors."""
    return jackknife(lambda kept: statistics(log_price[kept], rate[kept]), rate.size)


def loss_tails(log_price):
    """Losses x, shares of losses s; P(loss > x) and the Hill exponent of the worst s, both with standard errors."""
    markets = [np.sort(losses_of(one[None]))[::-1] for one in log_price]
    every = np.sort(np.concatenate(markets))[::-1]
    at = every[np.unique(np.geomspace(1, every.size, 120).astype(int)) - 1]
    ranks = np.unique(np.geomspace(20, every.size // 5, 60).astype(int)) / every.size

    def tails(kept):
        losses = np.sort(np.concatenate([markets[n] for n in kept]))[::-1]
        above = np.searchsorted(-losses, -at, side="right") / losses.size
        return np.concatenate([above, 1.0 / hill(losses, np.rint(ranks * losses.size).astype(int)).value])

    value, error = (np.split(part, [at.size]) for part in jackknife(tails, len(markets)))
    return at, ranks, tuple(zip(value, error, strict=True))


def jackknife(statistic, markets):
    """A statistic of markets by number, and its standard error by leaving out each of at most 16 groups of them.

    Steps of a market depend on each other, markets do not.
    """
    groups = np.arange(markets) % min(markets, 16)
    number = groups.max() + 1
    left = np.array([statistic(np.flatnonzero(groups != g)) for g in range(number)])
    return statistic(np.arange(markets)), left.std(axis=0) * np.sqrt(number - 1.0)


def checks(found):
    """The table by its bands in full mode, within sampling error of fewer markets in smoke mode; the directions in both.

    Statistics are those of 100,000 steps: with 40,000 the wealth of the funds has not settled in the first tenth. The kurtosis of
    16 markets has a standard error of up to a fifth of itself, because the largest crashes make it.
    """
    rows = {name: one for (panel, name), one in found.items() if panel == "statistics"}
    caps = rows["kurtosis"].x
    at = {cap: int(np.argmin(np.abs(caps - cap))) for cap in (1.0, 5.0, 10.0)}
    yield from (full_table if rows["kurtosis"].paths[0] >= FULL else part_of_table)(rows, at)
    hill_ = rows["Hill exponent, worst 0.5 %"].y[at[10.0]]
    yield exact("Hill exponent, worst 0.5 %, lambda_max 10, in its band", 1.675, hill_, 0.175, AGAIN)
    spread, loss = rows["standard deviation"].y, rows["99.9 % loss"].y
    ratio = loss[at[10.0]] / loss[at[1.0]]
    yield exact("99.9 % loss at lambda_max 10 over 1", 2.8, ratio, 0.28, AGAIN)
    calm = spread[at[10.0]] / spread[at[1.0]]
    yield exact(
        "standard deviation at lambda_max 10 over 1",
        1.0,
        calm,
        0.0,
        "who buys what is cheap damps ordinary moves",
        side=1,
    )
    last = loss[-1] / loss[at[10.0]]
    yield exact(f"99.9 % loss at lambda_max {caps[-1]:g} over 10", 1.0, last, 0.15, "above 10 the cap hardly binds")
    if ("noise trader alone", "formula") in found:
        alone, law = (
            found["noise trader alone", "variance of the log price"],
            found["noise trader alone", "formula"].y[0],
        )
        yield sampled("noise trader alone, variance", law, alone.y[0], alone.se[0], "AR(1)", most=0.1 * law)


def part_of_table(rows, at):
    """The table within sampling error, of fewer markets of the same length and of the table itself, and its rounding."""
    for name, values in TABLE.items():
        half = ROUNDED.get(name, 0.005)
        for cap, wanted in zip((1.0, 5.0, 10.0), values, strict=True):
            if name == "defaults" and cap == 1.0:
                continue  # a thousandth, of which the table shows one digit
            one, place = rows[name], at[cap]
            error = np.hypot(one.se[place] * np.sqrt(1.0 + one.paths[place] / FULL), half / np.sqrt(3.0))
            most = half + MOST.get(name, 0.05) * wanted
            yield sampled(f"{name}, lambda_max {cap:g}", wanted, one.y[place], error, AGAIN, most=most)


def full_table(rows, at):
    """Agreed bands for 64 markets x 100,000 steps."""
    for name, values in TABLE.items():
        for cap, wanted in zip((1.0, 5.0, 10.0), values, strict=True):
            levered = cap >= 5.0
            band = {
                "kurtosis": 0.15 * wanted if levered else 0.05 * wanted,
                "Hill exponent, worst 2 %": 0.1 if levered else 0.25,
                "99.9 % loss": 0.08 * wanted,
                "standard deviation": 0.02 * wanted,
                "defaults": 0.05 * wanted if levered else np.nan,
            }.get(name, np.nan)
            if np.isfinite(band):
                yield exact(f"{name}, lambda_max {cap:g}", wanted, rows[name].y[at[cap]], band, AGAIN)


def card(found):
    """The paper's message, and the numbers of the model as stated here."""
    rows = {name: one for (panel, name), one in found.items() if panel == "statistics"}
    for cap in (1.0, 5.0, 10.0):
        k = int(np.argmin(np.abs(rows["kurtosis"].x - cap)))
        yield Claim(
            f"lambda_max {cap:g}",
            "leverage causes fat tails and clustered volatility" if cap == 10.0 else "",
            ", ".join(f"{name} {one.y[k]:.3g} ± {1.96 * one.se[k]:.1g}" for name, one in rows.items()),
            "Thurner, Farmer, Geanakoplos (2012), title" if cap == 10.0 else "recomputed by us",
        )


def draw(found):
    """Left: P(larger loss) of a step (log price). Middle: Hill exponent over the worst share of losses (%). Right: statistics.

    Those on the right are relative to a cap of 10, over the cap on leverage. Bands and bars: 95 %, from leaving out groups of
    markets.
    """
    figure, axes = style.new_page(1, 3, height=2.7)
    looks = ((style.SKY, "-"), (style.GREEN, (0, (4, 1, 1, 1))), (style.BLUE, (0, (3, 1.5))), (style.BLACK, "-"))
    shown = [series for panel, series in found if panel == "P(loss above x)"]
    for series, (color, line) in zip(shown, looks, strict=False):
        label = rf"$\lambda_{{max}}$ = {series.split()[1]}"
        one = found["P(loss above x)", series]
        low = np.maximum(one.low, 1e-12)  # a band down to nothing has no end on a logarithmic axis
        axes[0, 0].fill_between(one.x, low, one.high, color=color, alpha=0.15, linewidth=0)
        axes[0, 0].plot(one.x, one.y, color=color, ls=line, label=label)
        one = found["Hill exponent over share of losses", series]
        axes[0, 1].fill_between(100.0 * one.x, one.low, one.high, color=color, alpha=0.15, linewidth=0)
        axes[0, 1].plot(100.0 * one.x, one.y, color=color, ls=line)
    axes[0, 0].set(xscale="log", yscale="log", xlabel="Loss of a step (log price)", ylabel="P(larger loss)")
    axes[0, 0].set_xlim(3e-3, 2.0)
    axes[0, 0].set_ylim(0.3 * min(found["P(loss above x)", series].y.min() for series in shown), 2.0)
    axes[0, 0].legend(loc="lower left")
    axes[0, 1].set(xscale="log", xlabel="Worst share of losses (%)", ylabel="Hill exponent", ylim=(0.0, 12.0))
    rows = {name: one for (panel, name), one in found.items() if panel == "statistics"}
    names = {
        "standard deviation": "st. deviation",
        "99.9 % loss": "99.9 % loss",
        "defaults": "defaults",
    }
    names |= {"autocorrelation, lag 1": "autocorr. |r|, lag 1"}
    for (name, label), (color, line), marker in zip(names.items(), looks, "os^D", strict=True):
        one = rows[name]
        some = one.x >= 1.0
        scale = one.y[np.argmin(np.abs(one.x - 10.0))]
        bars = 1.96 * one.se[some] / scale
        axes[0, 2].errorbar(
            one.x[some], one.y[some] / scale, bars, color=color, ls=line, marker=marker, ms=2.6, label=label
        )
    axes[0, 2].set(
        xlabel=r"Cap on leverage $\lambda_{max}$", ylabel=r"Relative to $\lambda_{max}$ = 10", ylim=(0.0, 1.9)
    )
    axes[0, 2].legend(loc="upper right", fontsize=6.5)
    return figure
