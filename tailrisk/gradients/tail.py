"""Derivatives of value-at-risk, expected shortfall and the probability that the fund is exhausted.

Expected shortfall, ES = min_q {q + E(L - q)+ / (1 - level)}: by the envelope theorem its derivative is that of the mean of
(L - q)+ / (1 - level) at q = VaR held fixed. q comes from paths that the derivative does not use; an error of q enters at first
order, (q_hat - q) dP(L > q)/dtheta / (1 - level), and is reported beside.

The indicator of L > q jumps where a path's loss passes q while its events stay as they are, a boundary that is no threshold of
a step. With P(L > q) = -d/dq E(L - q)+, a local linear fit over q of the derivative of E(L - q)+ is the derivative of a mean of
a smooth functional (`Exceedance`), which every estimator can take. So

    dP(L > q)/dtheta  =  d/dtheta E[H((L - q) / width)] + O(width^2),       dVaR/dtheta = dP(L > q)/dtheta / density of L at q,

at a width and at half of it; a third of their difference is the bias of the second.

**Source:** Rockafellar and Uryasev (2000); Hong (2009) and Hong and Liu (2009) for the sensitivities.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

from .._fields import InputError
from .auto import choose, estimate
from .functionals import Exceedance, FundExhausted, TailExcess
from .ladder import Ladder
from .record import Gradient, pilot
from .walk import LadderWalk

_NORMAL = float(special.ndtri(0.975))


class Quantile(NamedTuple):
    """A weighted quantile of simulated losses: its value, 95 % interval and standard error, and the density there."""

    value: float
    low: float
    high: float
    std_error: float
    density: float
    density_error: float


@dataclasses.dataclass(frozen=True)
class TailGradient:
    """Derivatives of a tail measure, one record per parameter.

    quantile: of the losses, from paths of their own (`None` where the level is a parameter of the ladder). from_quantile:
    standard error that its error adds to each derivative, to first order; it is not in the records. wider: the same
    derivatives at twice the width, for those that are smoothed.
    """

    measure: str
    gradient: dict[str, Gradient]
    quantile: Quantile | None = None
    from_quantile: dict[str, float] = dataclasses.field(default_factory=dict)
    wider: dict[str, Gradient] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        lines = [self.measure]
        if self.quantile is not None:
            lines.append(
                f"  quantile {self.quantile.value:.6g}, 95 % {self.quantile.low:.6g} to {self.quantile.high:.6g}"
            )
        for name, one in self.gradient.items():
            extra = "" if name not in self.from_quantile else f", from the quantile +- {self.from_quantile[name]:.2g}"
            wide = "" if name not in self.wider else f" (at twice the width {self.wider[name].estimate[0]:.6g})"
            mark = "" if one.accepted[0] else "  NOT ACCEPTED"
            lines.append(
                f"  d/d {name} = {one.estimate[0]:.6g} +- {one.std_error[0]:.2g}{extra}, bias {one.bias[0]:.2g}{wide}{mark}"
            )
        return "\n".join(lines)


class Sample(NamedTuple):
    """Weighted losses in descending order, with the weighted share of paths at or above each."""

    loss: np.ndarray
    weight: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, loss: np.ndarray, weight: np.ndarray) -> "Sample":
        """Sorts a sample."""
        order = np.argsort(-loss, kind="stable")
        return cls(loss[order], weight[order], np.cumsum(weight[order]) / weight.size)

    def at(self, tail: float) -> float:
        """The loss that is exceeded with about the probability `tail`."""
        return float(self.loss[min(np.searchsorted(self.share, tail), self.loss.size - 1)])

    def beyond(self, level: float) -> tuple[float, float]:
        """P(L > level) and its standard error."""
        hit = self.weight * (self.loss > level)
        return float(hit.mean()), float(hit.std() / np.sqrt(hit.size))

    def atom(self, level: float) -> float:
        """The share of paths with exactly this loss, 0 if it is one path."""
        here = self.loss == level
        return float(self.weight[here].sum() / self.weight.size) if here.sum() > 1 else 0.0

    def width(self, tail: float, level: float) -> float:
        """Half of what lies between the losses of tails half as large again and half as large, short of any atom below."""
        lower = self.loss[self.loss < level]
        room = level - float(lower.min()) if lower.size else np.inf
        return min(0.5 * (self.at(0.5 * tail) - self.at(1.5 * tail)), 0.5 * room)


def _losses(ladder: Ladder, *, net: bool, seed: int, paths: int, dtype: Any) -> Sample:
    out = pilot(LadderWalk.build(ladder, dtype=dtype), seed=seed, paths=paths, chunk=16_384)
    loss = out["bad_debt"] - (float(ladder.fund) + out["fund_income"] if net else 0.0)
    return Sample.of(loss, out["weight"])


def _density(sample: Sample, at: float, width: float) -> tuple[float, float]:
    """Density of the losses by the kernel of `Exceedance`, and its standard error."""
    kernel = sample.weight * 0.75 * (1.0 - np.clip((sample.loss - at) / width, -1.0, 1.0) ** 2) / width
    value, error = float(kernel.mean()), float(kernel.std() / np.sqrt(kernel.size))
    if not value > 2.0 * error:
        raise InputError(
            f"width = {width:.3g}: the density {value:.3g} +- {error:.2g} of the losses at {at:.6g} cannot be told from 0; "
            "use more pilot_paths or a larger width"
        )
    return value, error


def _quantile(sample: Sample, level: float, width: float) -> Quantile:
    tail = 1.0 - level
    value = sample.at(tail)
    error = sample.beyond(value)[1]
    density, spread = _density(sample, value, width)
    low, high = sample.at(tail + _NORMAL * error), sample.at(max(tail - _NORMAL * error, 0.0))
    return Quantile(value, low, high, error / density, density, spread)


def _scaled(found: Gradient, factor: float, relative: float) -> Gradient:
    """A record times a factor with an independent relative error."""
    value = found.estimate * factor
    error = np.hypot(found.std_error * factor, value * relative)
    reach = float(stats.t.ppf(0.975, found.batches - 1)) * error
    return dataclasses.replace(
        found, estimate=value, std_error=error, ci95=np.stack([value - reach, value + reach], axis=1)
    )


def _halved(narrow: Gradient, wide: Gradient, width: float, what: str) -> Gradient:
    """The record at the smaller width, with the bias that halving it shows."""
    return dataclasses.replace(
        narrow,
        bias=(narrow.estimate - wide.estimate) / -3.0,
        bias_source=f"O(width^2) at width {width:.3g} of the {what}: a third of what halving it changed, with its noise",
        step=np.full(1, width),
    )


Run = Callable[[Any], dict[str, Gradient]]


def _two_widths(run: Run, threshold: float, width: float, net: bool, what: str) -> tuple[Any, Any]:
    """Derivatives of P(X > threshold) at half the width, with their bias, and at the width."""
    wide, narrow = (run(Exceedance(threshold, w, net)) for w in (width, 0.5 * width))
    return {name: _halved(narrow[name], wide[name], 0.5 * width, what) for name in narrow}, wide


def _checked(level: float, width: float | None) -> None:
    if not 0.0 < level < 1.0:
        raise InputError(f"level = {level}: expected a number between 0 and 1, for example 0.99 for the worst 1 %")
    if width is not None and not width > 0.0:
        raise InputError(f"width = {width}: expected a positive number, in the unit of the loss")


def expected_shortfall(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    level: float = 0.99,
    seed: int = 0,
    paths: int = 64 * 16_384,
    batches: int = 64,
    pilot_paths: int = 2**18,
    method: str = "auto",
    dtype: Any = None,
) -> TailGradient:
    """Derivatives of the mean of the worst 1 - level of the losses, unbiased but for the error of the quantile.

    With P(L > 0) < 1 - level the quantile is 0, its error nothing, and the measure E[L] / (1 - level).

    **Raises:** `InputError` for a level outside (0, 1) and what the method does not apply to.
    """
    _checked(level, None)
    sample = _losses(ladder, net=False, seed=seed, paths=pilot_paths, dtype=dtype)
    q, tail = sample.at(1.0 - level), 1.0 - level

    options: dict[str, Any] = {"seed": seed, "paths": paths, "batches": batches, "method": method, "dtype": dtype}
    found = estimate(ladder, parameters, functional=TailExcess(q, level), **options)
    if sample.atom(q) > 0.0:
        quantile = Quantile(q, q, q, 0.0, np.inf, 0.0)
        return TailGradient(f"expected shortfall {level:g}", found, quantile, dict.fromkeys(found, 0.0))
    width = sample.width(tail, q)
    quantile = _quantile(sample, level, width)
    moved = estimate(ladder, parameters, functional=Exceedance(q, width), **options)
    error = {name: abs(float(moved[name].estimate[0])) / tail * quantile.std_error for name in found}
    return TailGradient(f"expected shortfall {level:g}", found, quantile, error)


def value_at_risk(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    level: float = 0.99,
    width: float | None = None,
    seed: int = 0,
    paths: int = 64 * 16_384,
    batches: int = 64,
    pilot_paths: int = 2**18,
    method: str = "auto",
    dtype: Any = None,
) -> TailGradient:
    """Derivatives of the quantile of the losses, biased by the width of a smoothing that is halved to show it.

    `width`: by default half of what lies between the losses of tails half as large again and half as large.

    **Raises:** `InputError` where the quantile is an atom, as 0 is if P(L > 0) < 1 - level: use expected shortfall; for a level
    outside (0, 1), a width that reaches down to an atom, and what the method does not apply to.
    """
    _checked(level, width)
    sample = _losses(ladder, net=False, seed=seed, paths=pilot_paths, dtype=dtype)
    q, tail = sample.at(1.0 - level), 1.0 - level
    if sample.atom(q) > 0.0:
        raise InputError(
            f"level = {level:g}: its quantile {q:.6g} is the loss of a share {sample.atom(q):.3g} of all paths, an atom, "
            "where the quantile has no derivative; use expected_shortfall"
        )
    width = sample.width(tail, q) if width is None else width
    if not 0.0 < width < q:
        raise InputError(
            f"width = {width:.6g}: expected more than 0 and less than the quantile {q:.6g}: no loss is an atom"
        )
    quantile = _quantile(sample, level, width)
    options: dict[str, Any] = {"seed": seed, "paths": paths, "batches": batches, "method": method, "dtype": dtype}

    def run(functional: Exceedance) -> dict[str, Gradient]:
        density, error = _density(sample, float(functional.threshold), float(functional.width))
        found = estimate(ladder, parameters, functional=functional, **options)
        return {name: _scaled(one, 1.0 / density, error / density) for name, one in found.items()}

    narrow, wide = _two_widths(run, q, width, False, "loss around its quantile")
    # The derivative as a function of q, from the ends of its interval.
    ends = [run(Exceedance(end, min(width, 0.99 * end))) for end in (quantile.low, quantile.high)]
    error = {
        name: abs(float(ends[1][name].estimate[0] - ends[0][name].estimate[0])) / (2.0 * _NORMAL) for name in parameters
    }
    return TailGradient(f"value-at-risk {level:g}", narrow, quantile, error, wide)


def exhaustion(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    width: float | None = None,
    seed: int = 0,
    paths: int = 64 * 16_384,
    batches: int = 64,
    pilot_paths: int = 2**18,
    method: str = "auto",
    dtype: Any = None,
) -> TailGradient:
    """Derivatives of P(L > fund + income), biased by the width of a smoothing that is halved to show it.

    Parameters whose default is the score need no smoothing, and their derivatives no bias. `width`: as for value-at-risk.

    **Raises:** `InputError` without a fund, where paths that sell nobody are an atom at exhaustion; where no pilot path exhausts
    it; for a width that is not less than the fund, and what the method does not apply to.
    """
    _checked(0.5, width)
    fund = float(ladder.fund)
    if fund == 0.0:
        raise InputError(
            "fund = 0: paths that sell nobody are just at exhaustion, an atom; use ForcedVolume or BadDebt, or a positive fund"
        )
    options: dict[str, Any] = {"seed": seed, "paths": paths, "batches": batches, "dtype": dtype}
    sharp = {name for name in parameters if method == "auto" and choose(ladder, name)[0] == "score"}
    rough = tuple(name for name in parameters if name not in sharp)
    found: dict[str, Gradient] = {}
    wider: dict[str, Gradient] = {}
    if sharp:
        found = estimate(ladder, tuple(sharp), functional=FundExhausted(), method="score", **options)
    if rough:
        sample = _losses(ladder, net=True, seed=seed, paths=pilot_paths, dtype=dtype)
        tail, error = sample.beyond(0.0)
        if not tail > 2.0 * error:
            raise InputError(
                f"fund = {fund:g}: P(exhausted) = {tail:.3g} +- {error:.2g} in {pilot_paths:,} paths cannot be told from 0; use "
                "more pilot_paths, or importance sampling (law.sampling_probability, law.sampling_tilt)"
            )
        width = sample.width(tail, 0.0) if width is None else width
        if not 0.0 < width < fund:
            raise InputError(
                f"width = {width:.6g}: expected more than 0 and less than fund = {fund:g}: no loss at all is an atom"
            )

        def run(functional: Exceedance) -> dict[str, Gradient]:
            return estimate(ladder, rough, functional=functional, method=method, **options)

        narrow, wider = _two_widths(run, 0.0, width, True, "loss around the fund")
        found |= narrow
    return TailGradient(
        "probability that the fund is exhausted", {name: found[name] for name in parameters}, wider=wider
    )
