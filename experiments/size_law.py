"""Are the sizes of cascades in a book of Poisson thresholds those of the Borel law?

Equal positions, thresholds as the points of a Poisson process, linear impact: every forced sale forces Poisson(R) more. The
outside price falls slowly through a long book; what falls together is one cascade, and by the strong Markov property of the
thresholds the cascades are independent. At R = 1 their sizes have no mean, so a book is long, not endless, and cascades that
begin in its last part are left out: that part is longer than any size of which a probability is reported.
"""

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from scipy import optimize, stats

from tailrisk import fragility, impact
from tailrisk._fields import Real, count, real
from tailrisk.feedback import borel_mean, borel_pmf, borel_variance
from tailrisk.figures import style
from tailrisk.study.observed import curve, exact, sampled
from tailrisk.study.published import Setting

LOOKS = ((style.SKY, "o"), (style.GREEN, "s"), (style.BLUE, "^"), (style.VERMILION, "D"), (style.BLACK, "v"))
TAIL = (10, 1_000)  # sizes between which the exponent is fitted
LAW = "Borel (1942), total progeny of a Poisson branching process"
QUOTED = {"mean": 3.3333, "variance": 25.926, "P(1)": 0.496585}  # at R = 0.7: 1/(1 - R), R/(1 - R)^3, e^-R by hand
BINS = np.array([*range(1, 13), 15, 19, 24, 31, 40, 51, 65, 83, 106, 135, 172, 219, 279, 355, 452, 576, 734, 1001])


class Config(eqx.Module):
    """Branching numbers, cascades of each, and the books they are read off."""

    branching: Real = real(unit="1", above=0.0, most=1.0)
    cascades: int = count(least=1_000)
    book: int = count(least=4_000)  # positions of one book
    books: int = count(least=1)  # cleared in one go, far apart


def sizes(branching, config, rng):
    """Sizes of the cascades of several books, those that begin within `TAIL` of the end of one left out."""
    gaps = rng.exponential(size=(config.books, config.book))
    gaps[1:, 0] += config.book  # no cascade crosses from one book to the next
    depth = np.cumsum(gaps)
    law = impact.Linear(impact.ConstantDepth(1.0), branching, memory="inf d")
    # the shocks that just take each position down, and so none that takes two cascades
    shocks = np.sort(depth - branching * np.arange(depth.size)) + 1e-7
    given = jnp.asarray(-depth), jnp.ones(depth.size), law, jnp.asarray(shocks)
    ends = np.unique(np.rint(np.asarray(fragility.shock_to_drop(*given).volume)).astype(np.int64))
    starts = np.concatenate([[0], ends[:-1]])
    return (ends - starts)[starts % config.book < config.book - TAIL[1]]


def main(config: Config, setting: Setting):
    """Share of cascades of each size, with moments, chi-square and exponent, for every branching number."""
    setting.need_double("cascades are told apart by small differences of large depths")
    found = {}
    for place, branching in enumerate(np.atleast_1d(config.branching)):
        rng, drawn, number, sums = np.random.default_rng((setting.seed, place)), [], 0, np.zeros(4)
        counts = np.zeros(BINS.size, np.int64)
        while number < config.cascades:
            new = sizes(float(branching), config, rng)[: config.cascades - number]
            number += new.size
            counts += np.histogram(new, [*BINS, np.inf])[0]
            sums += [np.sum(new.astype(float) ** power) for power in (1, 2, 3, 4)]
            drawn.append(new[(new >= TAIL[0]) & (new <= TAIL[1])])
        name = f"R = {branching:g}"
        share = counts / number
        error = np.sqrt(share * (1.0 - share) / number)
        found["share of cascades from a size to the next", name] = curve(BINS, share, error, unit="1", paths=number)
        if branching < 1.0:
            found["moments", name] = curve([1, 2], *moments(sums / number, number), unit="1", paths=number)
        else:
            tail = np.concatenate(drawn)
            found["exponent of the tail", name] = curve(1.0, *exponent(tail), unit="1", paths=tail.size)
        setting.report(f"{name}: {number} cascades, {share[0]:.4f} of size 1, {share[-1]:.2g} above {TAIL[1]}")
    return found


def moments(raw, number):
    """Mean and variance from raw moments, and their standard errors."""
    mean, second, third, fourth = raw
    variance = second - mean**2
    central = fourth - 4.0 * mean * third + 6.0 * mean**2 * second - 3.0 * mean**4
    return [mean, variance], np.sqrt([variance / number, (central - variance**2) / number])


def exponent(tail):
    """Maximum-likelihood exponent of P(n) in proportion to n^-a on the sizes of `TAIL`, and its standard error."""
    n = np.arange(TAIL[0], TAIL[1] + 1.0)
    level = np.log(tail).mean()
    fit = optimize.minimize_scalar(lambda a: a * level + np.log(np.sum(n**-a)), bounds=(1.01, 3.0), method="bounded")
    weight = n**-fit.x / np.sum(n**-fit.x)
    spread = np.sum(weight * np.log(n) ** 2) - np.sum(weight * np.log(n)) ** 2
    return fit.x, (spread * tail.size) ** -0.5


@functools.cache
def borel(branching):
    """The law on the sizes 1 to 1000."""
    return np.asarray(borel_pmf(branching, jnp.asarray(np.arange(1.0, BINS[-1]))))


def expected(branching):
    """Probability of each bin by the law; the last one is all that is left."""
    mass = np.add.reduceat(borel(branching), BINS[:-1] - 1)
    return np.append(mass, max(1.0 - mass.sum(), 0.0))


def checks(found):
    """Chi-square for every R < 1, moments and P(1) at R = 0.7, and the exponent at R = 1."""
    for (panel, name), one in found.items():
        branching = float(name.removeprefix("R = "))
        if panel.startswith("share") and branching < 1.0:
            number, law = one.paths[0], expected(branching)
            last = np.flatnonzero(law[::-1].cumsum()[::-1] * number >= 20.0)[-1]  # a bin with fewer joins the one below
            counts, means = (np.append(x[:last], x[last:].sum()) * number for x in (one.y, law))
            value = stats.chisquare(counts, means * (counts.sum() / means.sum())).pvalue
            yield exact(f"{name}, chi-square p-value", 1e-3, value, 0.0, LAW, side=-1)
        if branching == 0.7:
            if panel == "moments":
                closed = float(borel_mean(0.7)), float(borel_variance(0.7))
                for k, label in enumerate(("mean", "variance")):
                    yield sampled(
                        f"{name}, {label}", closed[k], one.y[k], one.se[k], LAW, most=(0.02, 1.0)[k] * closed[k]
                    )
                    yield exact(
                        f"{name}, {label} by the formula",
                        QUOTED[label],
                        closed[k],
                        1e-4 * closed[k],
                        "by hand",
                    )
            elif panel.startswith("share"):
                closed = float(borel(0.7)[0])
                yield sampled(f"{name}, P(1)", closed, one.y[0], one.se[0], LAW, most=5e-3)
                yield exact(f"{name}, P(1) by the formula", QUOTED["P(1)"], closed, 1e-6, "by hand")
        if panel == "exponent of the tail":
            yield exact(
                f"{name}, exponent over sizes 10 to 1000",
                1.5,
                one.y[0],
                0.05,
                "n^(-3/2) by Stirling's formula in the Borel law",
            )
            yield sampled(f"{name}, exponent within its error", fitted(), one.y[0], one.se[0], LAW, most=0.02)


def fitted():
    """The exponent that the law itself gives on the fitted sizes."""
    n = np.arange(TAIL[0], TAIL[1] + 1.0)
    law = borel(1.0)[TAIL[0] - 1 :]
    level = np.sum(law * np.log(n)) / law.sum()
    return optimize.minimize_scalar(lambda a: a * level + np.log(np.sum(n**-a)), bounds=(1.01, 3.0), method="bounded").x


def draw(found):
    """Probability of a cascade size (forced sales) for five branching numbers: marks with bars of 95 %, lines the Borel law."""
    figure, (ax,) = style.new_figure(height=2.9)
    shares = {name: one for (panel, name), one in found.items() if panel.startswith("share")}
    n = np.unique(np.geomspace(1.0, TAIL[1], 120).round()).astype(int)
    width, center = np.diff(BINS), np.sqrt(BINS[:-1] * (BINS[1:] - 1.0))
    for (name, one), (color, marker) in zip(shares.items(), LOOKS, strict=False):
        branching = float(name.removeprefix("R = "))
        ax.plot(n, borel(branching)[n - 1], color=color, lw=0.8)
        density, error = one.y[:-1] / width, 1.96 * one.se[:-1] / width
        seen = one.y[:-1] * one.paths[0] >= 5.0
        low = np.minimum(error, 0.9 * density)  # an interval that reaches zero ends at the axis
        bars = np.array([low, error])[:, seen]
        ax.errorbar(center[seen], density[seen], bars, fmt=marker, ms=2.6, color=color, lw=0.7, label=name)
    ax.plot([30.0, 600.0], 0.9 * np.array([30.0, 600.0]) ** -1.5, color=style.GRAY, lw=0.8, ls=(0, (4, 2)))
    ax.text(150.0, 1.1 * 150.0**-1.5, "slope $-3/2$", color=style.GRAY, fontsize=6.5)
    ax.set(xscale="log", yscale="log", xlabel="Cascade size (forced sales)", ylabel="Probability")
    ax.set_ylim(1e-7, 2.0)
    ax.set_title("Points: simulated. Lines: Borel law.", loc="left")
    ax.legend(loc="lower left", handletextpad=0.2)
    return figure
