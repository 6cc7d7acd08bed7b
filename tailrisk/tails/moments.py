"""Count, mean and centered sums of powers that merge: E[x^2] - E[x]^2 is never formed."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._fields import Real


class Moments(NamedTuple):
    """Of any shape, elementwise: `m2` is the sum of (y - mean)^2, and so on; `absolute` the sum of |y|.

    `largest` is the largest |y| and `nonzero` how many y are not zero.
    """

    count: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    m3: np.ndarray
    m4: np.ndarray
    absolute: np.ndarray
    largest: np.ndarray
    nonzero: np.ndarray

    @property
    def variance(self) -> Real:
        """Unbiased variance of one path; nan for fewer than two."""
        return _over(self.m2, self.count - 1)

    @property
    def std_error(self) -> Real:
        """Standard error of the mean of independent paths."""
        return np.sqrt(_over(self.variance, self.count))

    @property
    def skewness(self) -> Real:
        """Third standardized moment; zero where nothing varies."""
        return np.where(self.m2 > 0.0, np.sqrt(self.count) * _over(self.m3, self.m2**1.5), 0.0)

    @property
    def kurtosis(self) -> Real:
        """Fourth standardized moment less three; zero where nothing varies."""
        return np.where(self.m2 > 0.0, self.count * _over(self.m4, self.m2**2) - 3.0, 0.0)

    @property
    def effective_hits(self) -> Real:
        """(sum |y|)^2 / sum y^2: of how many equal contributions the sum is worth."""
        return np.where(self.absolute > 0.0, _over(self.absolute**2, self.m2 + self.count * self.mean**2), 0.0)


def _over(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    a, b = np.broadcast_arrays(np.asarray(a, float), np.asarray(b, float))
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0.0)


def empty_moments(*shape: int) -> Moments:
    """Of no path."""
    none, zero = np.zeros(shape, np.int64), np.zeros(shape)
    return Moments(none, zero, zero, zero, zero, zero, zero, none)


def moments_of(y: ArrayLike) -> Moments:
    """Moments of the values along the first axis, in float64."""
    y = np.asarray(y, float)
    center = y.mean(axis=0)
    powers = [((y - center) ** k).sum(axis=0) for k in (1, 2, 3, 4)]
    count = np.full(center.shape, y.shape[0], np.int64)
    size = np.abs(y)
    return centered(count, center, powers, size.sum(axis=0), size.max(axis=0), np.count_nonzero(y, axis=0))


def centered(
    count: ArrayLike, center: Real, powers: list, absolute: ArrayLike, largest: ArrayLike, nonzero: ArrayLike
) -> Moments:
    """Moments from the sums of (y - center)^k, k = 1 to 4, about a center close to the mean."""
    n = np.asarray(count, float)
    s1, s2, s3, s4 = (np.asarray(s, float) for s in powers)
    d = np.divide(s1, n, out=np.zeros_like(s1), where=n > 0)
    square = d * d  # products: a power may be rounded otherwise for another number of columns
    m2 = np.maximum(s2 - n * square, 0.0)
    m3 = s3 - 3.0 * d * s2 + 2.0 * n * square * d
    m4 = s4 - 4.0 * d * s3 + 6.0 * square * s2 - 3.0 * n * square * square
    rest = np.asarray(absolute, float), np.asarray(largest, float), np.asarray(nonzero, np.int64)
    return Moments(np.asarray(count, np.int64), center + d, m2, m3, m4, *rest)


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Moments of two disjoint samples together.

    **Source:** Chan, Golub, LeVeque (1979); Pebay (2008), "Formulas for robust, one-pass parallel computation of
    covariances and arbitrary-order statistical moments", for the third and fourth.
    """
    na, nb = np.asarray(a.count, float), np.asarray(b.count, float)
    n = np.maximum(na + nb, 1.0)
    d = np.where((na > 0) & (nb > 0), b.mean - a.mean, 0.0)
    pa, pb = na / n, nb / n
    mean = np.where(na == 0, b.mean, a.mean + d * pb)
    square = d * d
    m2 = a.m2 + b.m2 + square * na * pb
    m3 = a.m3 + b.m3 + square * d * na * pb * (pa - pb) + 3.0 * d * (pa * b.m2 - pb * a.m2)
    m4 = a.m4 + b.m4 + square * square * na * pb * (pa * pa - pa * pb + pb * pb)
    m4 = m4 + 6.0 * square * (pa * pa * b.m2 + pb * pb * a.m2) + 4.0 * d * (pa * b.m3 - pb * a.m3)
    return Moments(
        a.count + b.count, mean, m2, m3, m4,
        a.absolute + b.absolute, np.maximum(a.largest, b.largest), a.nonzero + b.nonzero,
    )  # fmt: skip


def total(moments: Moments) -> Moments:
    """Merges over the last axis, as a tree of neighbors."""
    parts = [Moments(*(field[..., i] for field in moments)) for i in range(moments.count.shape[-1])]
    while len(parts) > 1:
        merged = [merge_moments(*parts[i : i + 2]) for i in range(0, len(parts) - 1, 2)]
        parts = merged + parts[len(merged) * 2 :]
    return parts[0]


def scaled(m: Moments, unit: float) -> Moments:
    """Moments of y times a positive unit."""
    return m._replace(
        mean=m.mean * unit,
        m2=m.m2 * unit**2,
        m3=m.m3 * unit**3,
        m4=m.m4 * unit**4,
        absolute=m.absolute * unit,
        largest=m.largest * unit,
    )
