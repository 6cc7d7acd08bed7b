"""Why is the optimum of a sample not a policy, and what does tuning against a confidence bound change?

One margin m is tuned so that E[(L - m)+] meets a limit, again and again on fresh samples: with the plain sample mean on the
limit, with mean + z standard errors, and with the same bound under importance sampling. What each solution is really worth
follows in closed form.
"""

from itertools import product

import equinox as eqx
import numpy as np

from tailrisk._fields import Real, count, real
from tailrisk.figures import style
from tailrisk.policy import AugmentedLagrangian, tune
from tailrisk.study.observed import curve, exact
from tailrisk.study.published import Setting
from tailrisk.study.step_loss import DrawnLosses, StepLoss, expected_bad_debt, problem
from tailrisk.tails import measures

RULES = {
    "sample mean": (style.VERMILION, (0, (1, 1))),
    "mean + 1.645 s.e.": (style.BLUE, "-"),
    "the same, importance sampling": (style.BLACK, (0, (3, 1.5))),
}
PLAIN, BOUND, WEIGHTED = RULES
REFERENCE = "another implementation of this problem, 200 replications"
REPLICATIONS = 200  # of the reference
EXPECTED = {PLAIN: ((0.92, 1.00, 1.08), 0.51), BOUND: ((0.85, 0.92, 1.00), 0.07)}
SIZE = 100_000  # of the samples of the reference


class Config(eqx.Module):
    """Laws, sizes of samples and replications."""

    deviation: Real = real(unit="1", above=0.0)
    limit: Real = real(unit="1", above=0.0)
    freedoms: Real = real(unit="1", least=0.0)
    sizes: Real = real(unit="paths", least=1_000.0)
    replications: int = count(least=20)
    z: Real = real(unit="standard errors", above=0.0)
    tilt: Real = real(unit="deviations")
    spread: Real = real(unit="1", above=0.0)


def main(config: Config, setting: Setting):
    """True bad debt over its limit of every solution, as a distribution over replications."""
    found, limit, deviation = {}, float(config.limit), float(config.deviation)
    share = (np.arange(config.replications) + 1.0) / config.replications
    for freedom, size in product(config.freedoms.astype(int).tolist(), config.sizes.astype(int).tolist()):
        plain = StepLoss(deviation=deviation, freedom=freedom)
        other = {"spread": config.spread} if freedom else {"tilt": config.tilt}
        models = {PLAIN: plain, BOUND: plain, WEIGHTED: StepLoss(deviation=deviation, freedom=freedom, **other)}
        for rule, model in models.items():
            method = AugmentedLagrangian(
                z=0.0 if rule == PLAIN else float(config.z), room=0.0, tolerance=1e-4, gradient_tolerance=1e-3
            )
            ratio = np.empty(config.replications)
            for i in range(config.replications):
                seed = setting.seed * REPLICATIONS * 10 + i
                drawn = DrawnLosses.of(model, "figure/certificate", seed, size)
                tuned = tune(problem(limit, drawn), seed=seed, paths=size, method=method, chunk=size)
                ratio[i] = expected_bad_debt(float(tuned.parameters["margin"]), deviation, freedom) / limit
            low, high = measures.binomial_interval(np.arange(1, ratio.size + 1), ratio.size)
            panel = (f"t{freedom}" if freedom else "normal") + f", n = {size}"
            found[panel, rule] = curve(np.sort(ratio), share, unit="1", paths=size, low=low, high=high)
            setting.report(f"{panel}, {rule}: {np.mean(ratio > 1.0):.0%} violate")
    return found


def checks(found):
    """The reference of the normal law at n = 1e5; bands no tighter than the number of replications allows."""
    for rule, (quantiles, share) in EXPECTED.items():
        ratio = found[f"normal, n = {SIZE}", rule].x
        for level, wanted, tolerance in zip((0.05, 0.5, 0.95), quantiles, (0.03, 0.02, 0.03), strict=True):
            got = np.quantile(ratio, level)
            error = measures.quantile(ratio, level).std_error * np.sqrt(1.0 + ratio.size / REPLICATIONS)
            error = 0.0 if np.isnan(error) else error
            yield exact(f"{rule}, {level:.0%} quantile", wanted, got, max(tolerance, 3.0 * error), REFERENCE)
        error = np.sqrt(share * (1.0 - share) * (1.0 / ratio.size + 1.0 / REPLICATIONS))
        yield exact(f"{rule}, share violating", share, np.mean(ratio > 1.0), 3.0 * error, REFERENCE)


def draw(found):
    """Share of tunings whose true bad debt over its target is below x: columns are laws, rows sizes of the sample.

    Bands: 95 % of the share. In the corner: shares of the three rules that violate the target.
    """
    panels = list(dict.fromkeys(panel for panel, _ in found))
    laws = list(dict.fromkeys(panel.partition(",")[0] for panel in panels))
    rows = len(panels) // len(laws)
    figure, axes = style.new_page(rows, len(laws), height=0.6 + 1.45 * rows)
    for place, panel in enumerate(panels):
        ax = axes[place % rows, place // rows]
        words = []
        for rule, (color, line) in RULES.items():
            here = found[panel, rule]
            x, y = np.append(here.x, 1e3), np.append(here.y, 1.0)
            ax.fill_between(here.x, here.low, here.high, step="post", color=color, alpha=0.15, linewidth=0)
            ax.step(x, y, where="post", color=color, linestyle=line, label=rule if place == 0 else None)
            words.append(f"{np.mean(here.x > 1.0):.0%}")
        ax.axvline(1.0, color=style.GRAY, linewidth=0.6)
        ax.set_xlim(0.0, 2.0)
        ax.set_ylim(0.0, 1.0)
        law, _, size = panel.partition(", n = ")
        ax.set_title(
            f"{law if law == 'normal' else f'Student t, {law[1:]} degrees of freedom'}, {int(size):,} paths", loc="left"
        )
        ax.text(0.98, 0.06, "violate: " + ", ".join(words), transform=ax.transAxes, ha="right", fontsize=6.5)
    for ax in axes[-1]:
        ax.set_xlabel("True expected bad debt / target")
    for ax in axes[:, 0]:
        ax.set_ylabel("Share of tunings")
    figure.legend(loc="outside upper center", ncols=3)
    return figure
