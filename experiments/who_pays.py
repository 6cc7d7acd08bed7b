"""Who pays a deficit, and how unequal is what winners lose, under queues and pro-rata deleveraging?

Winners with random profits, leverage and size meet a deficit through the waterfall of the engine: fund, then deleveraging, then
the venue. What deleveraging must raise is split by the engine's allocations; a position is closed in the share of its profit that
is taken. Three units are kept apart throughout: contracts closed, notional closed, and profit taken; they are never added or
netted. The last row shows published aggregates of 10 October 2025, which are no calibration target and are checked against
nothing. Populations are synthetic.

Published are the bars of the last row and what the card says of that day, each with its source and revision. Ours are all other
numbers; none of them is fitted to a published one.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from scipy import special

from tailrisk._fields import Real, count, real
from tailrisk._streams import Draws, Noise
from tailrisk.figures import style
from tailrisk.simulate import AbstractSystem, simulate
from tailrisk.study.observed import Claim, curve, exact, sampled
from tailrisk.study.published import Setting
from tailrisk.waterfall import AbstractAllocation, CappedProRata, Closing, Queue, RiskAware, Waterfall
from tailrisk.waterfall.deleveraging import takeable
from tailrisk.waterfall.ranking import gini, overuse

LAW = "a waterfall pays a deficit once and takes from winners what they can pay (tailrisk/waterfall)"
EQUAL = (
    "n equal winners by hand: the queue empties k of them and takes the share r of one more, k + r = n need / profit"
)
INTEGRAL = "E[min(g/(1 + g), 1/L)] over lognormal g and L: partial expectation in L, trapezoids in g"
MARK = 100.0  # price of a contract
RULES = {
    "queue, whole positions": Queue(fill="whole"),
    "queue, partial fills": Queue(),
    "pro rata": CappedProRata(),
    "risk-aware pro rata": RiskAware(),
}
LOOKS = ((style.VERMILION, "-", "o"), (style.ORANGE, (0, (3, 1.5)), "s"))
LOOKS += ((style.BLUE, "-", "^"), (style.BLACK, (0, (4, 1, 1, 1)), "D"))
FINAL = "public event reconstruction (HyperMultiAssetedADL), revision of December 2025"
PAPER = "arXiv 2512.01112, revision of February 2026"
PUBLISHED = {  # unit -> (name, value, source); units are never mixed
    "fills": (("liquidations", 63_637, FINAL), ("deleveraging", 34_983, FINAL)),
    "billion USD of notional": (
        ("liquidations", 5.51104292505, FINAL),
        ("deleveraging", 2.10311143086, FINAL),
        ("closed beyond need", 0.6536, PAPER),
    ),
    "million USD of profit": (
        ("realized", 834.3, FINAL),
        ("excess, low", 45.0, PAPER),
        ("excess, high", 51.7, PAPER),
    ),
    "million USD of deficit": (
        ("1,275 accounts", 126.0, "the same reconstruction, first revision"),
        ("1,147 accounts", 109.29, "the same reconstruction, second revision"),
        ("302 accounts", 23.19110448, FINAL + ", cash only"),
        ("independent", 23.24515137, "independent figure"),
    ),
}
TOLD = (  # what the card says besides; text, because ranges and counts are no bars
    ("window", "21:15 to 21:27 UTC, 12 minutes; 162 tickers; no cross-asset deleveraging", FINAL),
    ("first deleveraging", "61 to 64 s after the first liquidation", FINAL),
    ("largest burst", "11,279 liquidations, then 11,279 deleveragings, in one block and strictly in that order", FINAL),
    ("deleveraged positions in profit", "94.5 %", FINAL),
    ("claim of the paper", "about 28 times over-use, 653 million USD unnecessary", "arXiv 2512.01112, first revision"),
    ("claim of the paper", "653.6 million USD is the notional of positions closed, a different unit", PAPER),
    ("regret of production", "about 50 % of its upper bound; optimized rule 2.6 %", "arXiv 2602.15182"),
    ("overshoot", "up to 51.7 million USD against 3 million for the best rule", "arXiv 2602.15182"),
)
COINS = {"BTC": 620.9, "ETH": 458.0, "SOL": 276.2, "HYPE": 189.9, "XPL": 65.8}  # million USD of notional deleveraged


class Config(eqx.Module):
    """Winners, the waterfall, and the deficits swept."""

    paths: int = count(least=16)
    winners: int = count(least=2, most=64)
    profit_share: Real = real(unit="1", above=0.0)
    profit_spread: Real = real(unit="1", least=0.0)
    size_spread: Real = real(unit="1", least=0.0)
    leverage: Real = real(unit="1", above=0.0)
    leverage_spread: Real = real(unit="1", least=0.0)
    fund: Real = real(unit="1", least=0.0)
    collateral: Real = real(unit="1", least=0.0)
    deficits: int = count(least=3)
    most_deficit: Real = real(unit="1", above=0.0)


class Deleveraging(AbstractSystem):
    """One deficit and one draw of winning longs, as a path of one step. Money is in shares of their mean profit."""

    rules: dict[str, AbstractAllocation]
    waterfall: Waterfall
    deficit: Real = real(unit="1", least=0.0)
    profit_share: Real = real(unit="1", above=0.0)
    profit_spread: Real = real(unit="1", least=0.0)
    size_spread: Real = real(unit="1", least=0.0)
    leverage: Real = real(unit="1", above=0.0)
    leverage_spread: Real = real(unit="1", least=0.0)
    winners: int = eqx.field(static=True, default=64)
    steps: int = eqx.field(static=True, default=1)
    dtype: Any = eqx.field(static=True, default=None)

    @property
    def draws(self):
        return Draws(normals=3 * self.winners)

    def init(self):
        zero = jnp.zeros((), self.dtype)
        names = [f"{name}: {what}" for name in self.rules for what in SHOWN]
        return dict.fromkeys([*PAYERS, "available", *names], zero)

    def step(self, state, noise: Noise):
        del state
        z = noise.normal.reshape(3, self.winners)
        gain = self.profit_share * jnp.exp(self.profit_spread * z[0] - 0.5 * self.profit_spread**2)  # over entry value
        marked = jnp.exp(self.size_spread * z[1] - 0.5 * self.size_spread**2)  # contracts x mark
        leverage = self.leverage * jnp.exp(self.leverage_spread * z[2])
        entry = marked / (1.0 + gain)
        profit, equity = marked - entry, marked / leverage
        unit = jnp.sum(jnp.ones_like(profit)) * self.profit_share / (1.0 + self.profit_share)
        marked, entry, profit, equity = (part / unit for part in (marked, entry, profit, equity))
        can = takeable(profit, equity)
        zero, one = jnp.zeros_like(self.deficit), jnp.ones((1,), self.dtype)
        closing = Closing(self.deficit, zero, zero, zero, zero, zero, -one * self.deficit / MARK)
        winning = jnp.stack([jnp.sum(can)[None], jnp.zeros((1,), self.dtype)])
        _, paid = self.waterfall.settle(self.waterfall.init(1, self.dtype), closing, winning, one * MARK)
        need = jnp.sum(paid.adl)
        found = {"fund": paid.fund, "winners": need, "venue": paid.venue, "available": jnp.sum(can)}
        for name, rule in self.rules.items():
            cut = rule.allocate(need, profit, equity, leverage, entry)
            share = jnp.where(can > 0.0, cut / jnp.where(can > 0.0, can, 1.0), 0.0)
            level = need / jnp.sum(can)
            amounts = (jnp.sum(share * marked) / MARK, jnp.sum(share * marked), jnp.sum(cut))
            amounts += (gini(cut), overuse(cut, need), jnp.min(equity - cut), jnp.max(jnp.abs(share - level)))
            found |= {f"{name}: {what}": value for what, value in zip(SHOWN, amounts, strict=True)}
        return found, None

    def outcome(self, state):
        return state


PAYERS = ("fund", "winners", "venue")
CONTRACTS, NOTIONAL, PROFIT = "contracts closed", "notional closed", "profit taken"
SHOWN = (CONTRACTS, NOTIONAL, PROFIT, "gini", "overuse", "least equity", "distance to equal shares")
UNITS = {CONTRACTS: "contracts", NOTIONAL: "quote currency", PROFIT: "quote currency"}


def system(config, dtype, deficit, fund):
    """One deficit under a fund."""
    names = ("profit_share", "profit_spread", "size_spread", "leverage", "leverage_spread")
    numbers = {name: jnp.asarray(getattr(config, name), dtype) for name in names}
    fall = Waterfall(fund=jnp.asarray(fund, dtype), deleverage="adl")
    return Deleveraging(
        RULES, fall, jnp.asarray(deficit, dtype), **numbers, winners=config.winners, dtype=np.dtype(dtype)
    )


def main(config: Config, setting: Setting):
    """Who pays over the deficit, what each allocation takes, and what must hold on every path."""
    setting.need_double("shares are compared to a billionth")
    deficits = np.linspace(0.0, float(config.most_deficit), config.deficits + 1)[1:]
    given, fund = {"paths": config.paths, "seed": setting.seed}, float(config.fund)
    rows, worst = {}, {"sum": 0.0, "equity": np.inf, "rate": 0.0, "excess": 0.0}
    for deficit in deficits:
        out = {k: v.astype(float) for k, v in simulate(system(config, setting.dtype, deficit, fund), **given).items()}
        worst["sum"] = max(worst["sum"], np.abs(sum(out[name] for name in PAYERS) - deficit).max() / deficit)
        enough = out["venue"] <= 0.0
        for name in RULES:
            worst["equity"] = min(worst["equity"], out[f"{name}: least equity"].min())
            if "whole" not in name:
                taken = out[f"{name}: {PROFIT}"]
                worst["excess"] = max(worst["excess"], np.abs(taken - out["winners"]).max() / deficit)
        if enough.any():
            worst["rate"] = max(worst["rate"], out["pro rata: distance to equal shares"][enough].max())
        for name, column in out.items():
            rows.setdefault(name, []).append((column.mean(), column.std(ddof=1) / np.sqrt(column.size)))
    found, paths = {}, config.paths
    for name in PAYERS:
        value, error = np.array(rows[name]).T
        found["paid", name] = curve(deficits, value, error, unit="quote currency", paths=paths)
    lost = np.full(deficits.size, float(config.collateral))
    found["paid", "trader collateral"] = curve(deficits, lost, unit="quote currency")
    for rule in RULES:
        for what in (CONTRACTS, NOTIONAL, PROFIT, "gini", "overuse"):
            value, error = np.array(rows[f"{rule}: {what}"]).T
            found[what, rule] = curve(deficits, value, error, unit=UNITS.get(what, "1"), paths=paths)
    endless = simulate(system(config, setting.dtype, deficits[-1], 1e12), **given)
    worst["endless"] = float(np.abs(endless["winners"]).max())
    for name, value in worst.items():
        found["limits", name] = curve(0.0, value, unit="fraction", paths=paths)
    value, error = rows["available"][0]
    found["available profit", "simulated"] = curve(0.0, value, error, unit="quote currency", paths=paths)
    found["available profit", "integral"] = curve(0.0, expected_available(config), unit="quote currency")
    found |= equal_winners(config, setting, deficits)
    for unit, bars in PUBLISHED.items():
        for name, value, source in bars:
            found[f"published, {unit}", f"{name} [{source}]"] = curve(0.0, value, unit=unit)
    for coin, value in COINS.items():
        found["published, notional deleveraged by coin", coin] = curve(0.0, value, unit="million USD of notional")
    first = int(np.argmax(found["paid", "winners"].y > 0.0))
    for rule in RULES:
        text = ", ".join(f"{what} {found[what, rule].y[first]:.3g}" for what in ("gini", "overuse"))
        setting.report(f"{rule}: deficit {deficits[first]:.3g}, {text}")
    return found


def expected_available(config):
    """Mean profit that may be taken of all winners, in their mean profit had it no spread: what no equity caps."""
    z = np.linspace(-9.0, 9.0, 4_001)
    gain = float(config.profit_share) * np.exp(float(config.profit_spread) * (z - 0.5 * float(config.profit_spread)))
    share, spread = gain / (1.0 + gain), float(config.leverage_spread)
    far = (np.log(share) + np.log(float(config.leverage))) / max(
        spread, 1e-9
    )  # 1/L is above share with chance Phi(-far)
    capped = np.exp(0.5 * spread**2) / float(config.leverage) * special.ndtr(far - spread)
    least = share * special.ndtr(-far) + capped
    mean = np.trapezoid(least * np.exp(-0.5 * z * z), z) / np.sqrt(2.0 * np.pi)
    return mean * (1.0 + float(config.profit_share)) / float(config.profit_share)


def equal_winners(config, setting, deficits):
    """Engine and hand calculation where all winners are alike, so that nothing is random."""
    none = {name: 0.0 for name in ("profit_spread", "size_spread", "leverage_spread")}
    places = lambda s: tuple(getattr(s, name) for name in none)  # noqa: E731
    n, fund, rows = config.winners, float(config.fund), {}
    for deficit in deficits:
        model = system(config, setting.dtype, deficit, fund)
        model = eqx.tree_at(places, model, tuple(jnp.zeros_like(old) for old in places(model)))
        out = {name: float(column[0]) for name, column in simulate(model, paths=1, seed=setting.seed).items()}
        need = max(deficit - fund, 0.0)
        taken = min(need, 1.0)
        k, r = divmod(n * taken, 1.0)
        law = {"fund": min(deficit, fund), "winners": taken, "venue": max(need - 1.0, 0.0)}
        if taken > 0.0:
            whole, partial, even, aware = RULES
            queue = (r * (n - 2.0 * k - 1.0) + k * (n - k)) / (n * (k + r))
            law |= {f"{partial}: gini": queue, f"{even}: gini": 0.0, f"{aware}: gini": 0.0}
            if taken == 1.0 or 1e-6 < r < 1.0 - 1e-6:  # else rounding decides whether one more is taken
                law[f"{whole}: overuse"] = min(k + 1.0, n) / (n * taken)
        for name, value in law.items():
            rows.setdefault(name, []).append((deficit, out[name], value))
    found = {}
    for name, row in rows.items():
        x, engine, hand = np.array(row).T
        unit = "quote currency" if name in PAYERS else "1"
        found["equal winners, engine", name] = curve(x, engine, unit=unit)
        found["equal winners, by hand", name] = curve(x, hand, unit=unit)
    return found


def checks(found):
    """What must hold on every path; equal winners; the profit that can be taken; the order of mechanisms."""
    limits = {name: one.y[0] for (panel, name), one in found.items() if panel == "limits"}
    yield exact("fund, winners and venue less the deficit, relative", 0.0, limits["sum"], 1e-6, LAW)
    yield exact("raised less needed, partial fills and pro rata, relative", 0.0, limits["excess"], 1e-6, LAW)
    yield exact("least equity after deleveraging", 0.0, limits["equity"], 1e-9, LAW, side=-1)
    yield exact("pro rata: share of profit less deficit over profit", 0.0, limits["rate"], 1e-9, LAW)
    yield exact("infinite fund: deleveraged", 0.0, limits["endless"], 0.0, LAW)
    whole, partial, even, aware = RULES
    for name in (partial, even, aware):
        one = found["overuse", name]
        due = found["paid", "winners"].y > 0.0
        yield exact(f"overuse, {name}", 1.0, one.y[due].max(), 1e-6, "least harm: taken equals needed")
    first = int(np.argmax(found["paid", "winners"].y > 0.0))
    used, parts = found["overuse", whole], {name: found["gini", name] for name in RULES}
    excess = (used.y[first] - 1.0) / max(used.se[first], 1e-300)
    yield exact("overuse of whole positions above 1, standard errors", 3.0, excess, 0.0, LAW, side=-1)
    gap = parts[partial].y[first] - parts[even].y[first]
    error = np.hypot(parts[partial].se[first], parts[even].se[first])
    yield exact("Gini of the queue above pro rata, standard errors", 3.0, gap / error, 0.0, LAW, side=-1)
    for (panel, name), law in found.items():
        if panel == "equal winners, by hand":
            apart = np.abs(found["equal winners, engine", name].y - law.y).max()
            yield exact(f"equal winners, {name}: largest distance to a hand calculation", 0.0, apart, 1e-9, EQUAL)
    simulated, law = (found["available profit", name] for name in ("simulated", "integral"))
    most = 0.02 * law.y[0]
    yield sampled("profit that can be taken", law.y[0], simulated.y[0], simulated.se[0], INTEGRAL, most=most)


def card(found):
    """Published numbers, unit by unit; ours are of synthetic winners and stand for the mechanism alone."""
    for unit, bars in PUBLISHED.items():
        for name, value, source in bars:
            yield Claim(f"10 October 2025, {unit}: {name}", f"{value:,.10g}", "", source)
    for coin, value in COINS.items():
        yield Claim(f"10 October 2025, million USD of notional deleveraged: {coin}", f"{value:g}", "", FINAL)
    for what, text, source in TOLD:
        yield Claim(f"10 October 2025, {what}", text, "", source)
    first = int(np.argmax(found["paid", "winners"].y > 0.0))
    for rule in RULES:
        parts = ((found[what, rule].y[first], unit) for what, unit in UNITS.items())
        text = "; ".join(f"{what} {value:.4g} {unit}" for what, (value, unit) in zip(UNITS, parts, strict=True))
        more = f"Gini {found['gini', rule].y[first]:.3f}, overuse {found['overuse', rule].y[first]:.3f}"
        yield Claim(
            f"{rule}, deficit {found['gini', rule].x[first]:.3g} of mean profit",
            "",
            f"{text}; {more}",
            "synthetic winners",
        )


def draw(found):
    """Top: who bears the loss; profit taken over need, Gini of haircuts, contracts closed, over the deficit in mean profits.

    Bars: 95 %. Bottom: published aggregates of 10 October 2025, one axis for each unit, never added.
    """
    figure, axes = style.new_page(2, 4, height=4.2)
    names = ("trader collateral", *PAYERS)
    x = found["paid", "fund"].x
    parts = np.array([found["paid", name].y for name in names])
    colors = (style.GRAY, style.SKY, style.ORANGE, style.VERMILION)
    stack = axes[0, 0].stackplot(x, 100.0 * parts / parts.sum(axis=0), colors=colors, labels=names, lw=0)
    for part, hatch in zip(stack, ("", "", "//", "xx"), strict=True):
        part.set(hatch=hatch, edgecolor="white")
    axes[0, 0].set(
        xlabel="Deficit / mean profit", ylabel="Share of the loss (%)", ylim=(0.0, 100.0), xlim=(x[0], x[-1])
    )
    axes[0, 0].legend(loc="lower left", fontsize=6, frameon=True, framealpha=0.8, edgecolor="none")
    panels = (("overuse", "Profit taken / needed"), ("gini", "Gini of haircuts"), (CONTRACTS, "Contracts closed"))
    for ax, (panel, label) in zip(axes[0, 1:], panels, strict=True):
        for rule, (color, line, marker) in zip(RULES, LOOKS, strict=True):
            one = found[panel, rule]
            some = found["paid", "winners"].y > 0.0
            bars = 1.96 * one.se[some]
            ax.errorbar(one.x[some], one.y[some], bars, color=color, ls=line, marker=marker, ms=2.4, lw=0.9, label=rule)
        ax.set(xlabel="Deficit / mean profit", ylabel=label)
    axes[0, 2].set_ylim(0.0, 1.0)
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    for ax, (unit, bars) in zip(axes[1], PUBLISHED.items(), strict=True):
        here = [name for name, _, _ in bars]
        values = [found[f"published, {unit}", f"{name} [{source}]"].y[0] for name, _, source in bars]
        ax.bar(range(len(here)), values, color=style.GRAY, width=0.6)
        for k, value in enumerate(values):
            text = f"{value:,.0f}" if value >= 1_000.0 else f"{value:.4g}"
            ax.text(k, value, text, ha="center", va="bottom", fontsize=6)
        ax.set_xticks(range(len(here)), here, rotation=30, ha="right", fontsize=6)
        ax.set_ylabel(unit[0].upper() + unit[1:])
        ax.margins(y=0.12)
    axes[1, 0].set_title("Published, 10 October 2025", loc="left", fontsize=7)
    axes[1, 3].set_title("by revision", loc="left", fontsize=7)
    return figure
