"""Estimates from plain Monte Carlo paths, with intervals that hold for heavy-tailed losses with an atom at zero.

Everything is float64 on the host. A sample that is too small for its interval gets a `nan` interval and a note that
says why, so that a table never shows a number that only looks fine. How far the intervals can be trusted was
measured. With 95 % asked, for exponential, lognormal (deviation 1 and 1.5) and Lomax (index 4 and 2.5) losses in 0.5
to 100 % of paths and with 20 to 400 paths beyond the quantile, the mean was covered in 0.92 to 0.97 of runs (the
plain normal interval: 0.86 to 0.96) and the expected shortfall in 0.93 to 0.99 (plain: 0.76 to 0.96).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

LEAST_PATHS = 25  # that carry a mean or a shortfall; below, the third moment of the correction is noise
WARN_SHARE = 0.1  # of a mean carried by one path: the interval is rough
MOST_SHARE = 0.5  # beyond: no interval
SECTIONS = 10
_ROUNDING = 1e-9  # n (1 - level) is a whole number up to this, relative


class Estimate(NamedTuple):
    """A number with its standard error and interval; `nan` where the sample cannot give one, and `note` says why."""

    value: float
    std_error: float
    low: float
    high: float
    unit: str = "1"
    note: str = ""


def nothing(note: str, value: float = np.nan) -> Estimate:
    """No interval, and the reason."""
    return Estimate(value, np.nan, np.nan, np.nan, note=note)


def sample(*columns: ArrayLike) -> tuple[list[np.ndarray], str]:
    """Float64 copies of the columns, and why they cannot be used (empty when they can)."""
    arrays = [np.asarray(column, float).reshape(-1) for column in columns]
    size = arrays[0].size
    if any(array.size != size for array in arrays):
        raise ValueError(
            f"got {' and '.join(str(a.size) for a in arrays)} paths; expected the same paths in each array"
        )
    bad = np.count_nonzero(~np.all(np.isfinite(arrays), axis=0))
    if bad:
        return arrays, f"{bad:,} of {size:,} paths are not finite"
    return arrays, "" if size > 1 else f"{size} path(s): nothing to compare"


def two_sided(confidence: float) -> float:
    """Standard errors to either end of a normal interval.

    **Raises:** `ValueError` for a confidence that is no share.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence = {confidence}: expected a number between 0 and 1, for example 0.95")
    return float(special.ndtri(0.5 + 0.5 * confidence))


def tail_share(level: float) -> float:
    """1 - level.

    **Raises:** `ValueError` for a level that is no share.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level = {level}: expected a number between 0 and 1, for example 0.99 for the worst 1 %")
    return 1.0 - float(level)


def _complaint(x: np.ndarray) -> tuple[str, bool]:
    """A note on how few paths carry the mean of x, and whether they are too few for an interval."""
    weight = np.abs(x)
    return carried(x.size, int(np.count_nonzero(weight)), float(weight.max()), float(weight.sum()))


def carried(paths: int, carrying: int, largest: float, total: float) -> tuple[str, bool]:
    """A note on how few paths carry a sum of |x|, and whether they are too few for an interval."""
    if carrying < LEAST_PATHS:
        return f"only {carrying} of {paths:,} paths carry it, {LEAST_PATHS} are needed", True
    share = largest / total
    if share > MOST_SHARE:
        return f"one path carries {share:.0%} of it", True
    return (f"one path carries {share:.0%} of it: a rough interval", False) if share > WARN_SHARE else ("", False)


def _skewed_interval(x: np.ndarray, z: float) -> tuple[float, float, float]:
    mean = float(x.mean())
    centered = x - mean
    deviation = float(np.sqrt(np.mean(centered**2)))
    skew = float(np.mean((centered / deviation) ** 3)) if deviation else 0.0
    return skewed_interval(x.size, mean, deviation, skew, z, bool(x.min() >= 0.0))


def skewed_interval(
    n: int, mean: float, deviation: float, skew: float, z: float, positive: bool
) -> tuple[float, float, float]:
    """Standard error and Hall's interval of the mean of n paths; `deviation` is that of the sample itself.

    With S = (mean - mu)/s and skewness g, sqrt(n) (S + g S^2/3 + g^2 S^3/27 + g/(6 n)) is normal up to order 1/n. It is
    monotone in S, so it inverts in closed form: S(t) = (3/g) (cbrt(1 + g (t/sqrt(n) - g/(6 n))) - 1).
    """
    if deviation == 0.0:
        return 0.0, mean, mean
    deviation *= np.sqrt(n / (n - 1))

    def shift(t: float) -> float:
        y = t / np.sqrt(n) - skew / (6.0 * n)
        return y if abs(skew * y) < 1e-6 else 3.0 / skew * (np.cbrt(1.0 + skew * y) - 1.0)

    low, high = float(mean - deviation * shift(z)), float(mean - deviation * shift(-z))
    return float(deviation / np.sqrt(n)), max(low, 0.0) if positive else low, high


def constant(value: float, paths: int, confidence: float) -> Estimate:
    """What paths that are all equal say of a mean."""
    bound = -np.expm1(np.log1p(-confidence) / paths)
    text = f"the same in all {paths:,} paths" if value else f"zero in all {paths:,} paths"
    return nothing(f"{text}: others have a probability of at most {bound:.2g}", value)


def mean(x: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean of x with a skewness-corrected interval.

    Paths that are all equal give no interval: nothing in them bounds the loss of the first path that differs.

    **Source:** Johnson (1978) for the correction; Hall (1992), "On the removal of skewness by transformation", for the
    monotone form used here.
    """
    z = two_sided(confidence)
    (x,), wrong = sample(x)
    if wrong:
        return nothing(wrong)
    value = float(x.mean())
    if np.ptp(x) == 0.0:
        return constant(value, x.size, confidence)
    note, refused = _complaint(x)
    if refused:
        return nothing(note, value)
    return Estimate(value, *_skewed_interval(x, z), note=note)


def probability(hits: ArrayLike, confidence: float = 0.95, *, paths: int | None = None) -> Estimate:
    """Probability from one Boolean per path, or from a count of `paths`, with the exact interval.

    low and high are the p with P(X >= hits; p) = P(X <= hits; p) = (1 - confidence)/2; the coverage is at least the one
    asked. Without a hit, or without a miss, there is no standard error.

    **Source:** Clopper and Pearson (1934).
    """
    two_sided(confidence)
    if paths is None:
        array = np.asarray(hits)
        if array.dtype != bool:
            raise ValueError(f"hits are {array.dtype}: expected one Boolean per path, or a count with paths=...")
        count, paths = int(np.count_nonzero(array)), array.size
    else:
        count = int(np.asarray(hits))
    if not 0 <= count <= paths:
        raise ValueError(f"hits = {count}: expected 0 to paths = {paths}")
    if paths == 0:
        return nothing("no paths")
    low, high = binomial_interval(count, paths, confidence)
    value, note = count / paths, ""
    if count in (0, paths):
        side = "no path" if count == 0 else "every path"
        note = f"{side} of {paths:,} hit: one-sided bound {-np.expm1(np.log1p(-confidence) / paths):.2g}"
    error = np.nan if note else float(np.sqrt(value * (1.0 - value) / paths))
    return Estimate(value, error, float(low), float(high), note=note)


def binomial_interval(count: ArrayLike, paths: ArrayLike, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Clopper-Pearson limits for counts of hits, elementwise."""
    count, paths = np.asarray(count, float), np.asarray(paths, float)
    miss = 0.5 * (1.0 - confidence)
    with np.errstate(invalid="ignore"):
        low = special.betaincinv(np.maximum(count, 0.5), paths - count + 1.0, miss)
        high = special.betaincinv(count + 1.0, np.maximum(paths - count, 0.5), 1.0 - miss)
    return np.where(count > 0, low, 0.0), np.where(count < paths, high, 1.0)


def _largest(x: np.ndarray, most: int) -> np.ndarray:
    """The `most` largest values, largest first."""
    most = min(most, x.size)
    return np.sort(np.partition(x, x.size - most)[x.size - most :])[::-1]


def rank(size: int, alpha: float) -> int:
    """How many of the largest values reach a share alpha of the sample."""
    return min(max(int(np.ceil(size * alpha * (1.0 - _ROUNDING))), 1), size)


def quantile(x: ArrayLike, level: float, confidence: float = 0.95) -> Estimate:
    """Value-at-risk: the largest v with P(x >= v) >= 1 - level in the sample, with an exact order-statistic interval.

    The number of values beyond the true quantile is Binomial(n, 1 - level), whatever the law, so two order statistics
    bracket it with at least the probability asked. An atom only makes the interval safer; where P(x > 0) < 1 - level,
    the value and the lower end are 0. The standard error is that of the exact bootstrap (weights of a Beta law on the
    order statistics).

    **Source:** Wilks (1948) for the interval; Maritz and Jarrett (1978) for the standard error.
    """
    two_sided(confidence)
    alpha = tail_share(level)
    (x,), wrong = sample(x)
    if wrong:
        return nothing(wrong)
    n, miss = x.size, 0.5 * (1.0 - confidence)
    k = rank(n, alpha)
    law = stats.binom(n, alpha)
    first = int(law.ppf(miss))  # largest r with P(B < r) <= miss: rank, from the top, of the upper end
    last = int(law.isf(miss)) + 1  # smallest r with P(B >= r) <= miss
    top = _largest(x, max(last, int(k + 10.0 * np.sqrt(k) + 30.0)))
    value = float(top[k - 1])
    if first < 1 or last > n:
        needed = int(np.ceil(np.log(miss) / np.log(max(level, alpha))))
        return nothing(f"{n:,} paths, {needed:,} are needed for an interval at level {level:g}", value)
    ranks = np.arange(top.size + 1) / n
    weight = np.diff(special.betainc(k, n - k + 1.0, np.minimum(ranks, 1.0)))
    weight = weight / weight.sum()
    error = float(np.sqrt(weight @ (top - weight @ top) ** 2))
    low, high = float(top[last - 1]), float(top[first - 1])
    return Estimate(value, error, low, high, note=_atom(x, value, low, alpha))


def _atom(x: np.ndarray, value: float, low: float, alpha: float) -> str:
    """What to say when the quantile lies at, or cannot be told from, an atom at the lower end of the sample."""
    if low > x.min() or np.count_nonzero(x == low) < 2:
        return ""
    share = np.count_nonzero(x > low) / x.size
    return f"{'at' if value == low else 'near'} the atom {low:g}: P(x > {low:g}) = {share:.2g}, the tail is {alpha:.2g}"


def _shortfall(x: np.ndarray, alpha: float) -> tuple[float, float]:
    value = float(_largest(x, rank(x.size, alpha))[-1])
    return value, value + float(np.maximum(x - value, 0.0).mean()) / alpha


def expected_shortfall(x: ArrayLike, level: float, confidence: float = 0.95) -> Estimate:
    """Expected shortfall: v + E[(x - v)+]/(1 - level) with v the value-at-risk, the mean of the worst share 1 - level.

    The derivative in v is zero at the minimum, so (x - v)+/(1 - level) is the influence function. The interval spans
    both the skewness-corrected interval of its mean and the one of ten sections (t law with nine degrees of freedom
    around the estimate of all paths). With P(x > 0) < 1 - level, v = 0 and the value is E[x]/(1 - level).

    **Source:** Rockafellar and Uryasev (2000) for the formula; Asmussen and Glynn (2007, III.5) for sectioning.
    """
    z, alpha = two_sided(confidence), tail_share(level)
    (x,), wrong = sample(x)
    if wrong:
        return nothing(wrong)
    v, value = _shortfall(x, alpha)
    excess = np.maximum(x - v, 0.0)
    note, refused = _complaint(excess)
    if refused:
        return nothing(f"beyond the {level:g} quantile: {note}", value)
    error, low, high = _skewed_interval(excess, z)
    parts = np.array([_shortfall(part, alpha)[1] for part in np.array_split(x, SECTIONS)])
    spread = np.sqrt(np.sum((parts - value) ** 2) / (SECTIONS - 1) / SECTIONS)
    half = float(spread * stats.t.ppf(0.5 + 0.5 * confidence, SECTIONS - 1))
    low, high = min(v + low / alpha, value - half), max(v + high / alpha, value + half)
    return Estimate(value, error / alpha, max(low, 0.0) if x.min() >= 0.0 else low, high, note=note)


def ratio_of_means(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Estimate:
    """R = E[x]/E[y] over the same paths by the delta method: the mean of x - R y over mean y, corrected for skewness.

    Refused when the mean of y is within four standard errors of zero.
    """
    z = two_sided(confidence)
    (x, y), wrong = sample(x, y)
    if wrong:
        return nothing(wrong)
    below, noise = float(y.mean()), float(y.std(ddof=1) / np.sqrt(y.size))
    if abs(below) <= 4.0 * noise or below == 0.0:
        return nothing(f"the denominator {below:.3g} is not far enough from zero (standard error {noise:.2g})")
    value = float(x.mean()) / below
    note, refused = max(_complaint(x), _complaint(y), key=lambda complaint: (complaint[1], complaint[0]))
    if refused:
        return nothing(note, value)
    rest = x - value * y
    error, low, high = _skewed_interval(rest, z)
    ends = sorted((value + low / below, value + high / below))
    return Estimate(value, error / abs(below), ends[0], ends[1], note=note)
