"""Means of plain paths from their moments: what `measures` gives, without the paths."""

import numpy as np

from . import measures
from .measures import Estimate
from .moments import Moments


def mean(m: Moments, positive: bool, confidence: float = 0.95) -> Estimate:
    """The mean as in `measures.mean`; `positive` says that no value is below zero."""
    z, n, value = measures.two_sided(confidence), int(m.count), float(m.mean)
    if n < 2:
        return measures.nothing(f"{n} path(s): nothing to compare")
    if float(m.m2) <= n * (4.0 * np.finfo(float).eps * float(m.largest)) ** 2:
        return measures.constant(value, n, confidence)
    note, refused = measures.carried(n, int(m.nonzero), float(m.largest), float(m.absolute))
    if refused:
        return measures.nothing(note, value)
    deviation = float(np.sqrt(m.m2 / n))
    return Estimate(value, *measures.skewed_interval(n, value, deviation, float(m.skewness), z, positive), note=note)


def ratio_of_means(x: Moments, y: Moments, both: Moments, apart: Moments, confidence: float = 0.95) -> Estimate:
    """E[x]/E[y] as in `measures.ratio_of_means`, from the moments of x, y, x + y and x - y.

    By polarization 4 cov(x, y) = var(x + y) - var(x - y), and the third moments of the sum and of the difference give the
    mixed ones.
    """
    z, n = measures.two_sided(confidence), int(x.count)
    if n < 2:
        return measures.nothing(f"{n} path(s): nothing to compare")
    below, noise = float(y.mean), float(y.std_error)
    if abs(below) <= 4.0 * noise or below == 0.0:
        return measures.nothing(f"the denominator {below:.3g} is not far enough from zero (standard error {noise:.2g})")
    value = float(x.mean) / below
    complaints = [measures.carried(n, int(m.nonzero), float(m.largest), float(m.absolute)) for m in (x, y)]
    note, refused = max(complaints, key=lambda complaint: (complaint[1], complaint[0]))
    if refused:
        return measures.nothing(note, value)
    xy = float(both.m2 - apart.m2) / 4.0
    xxy = (float(both.m3 - apart.m3) - 2.0 * float(y.m3)) / 6.0
    xyy = (float(both.m3 + apart.m3) - 2.0 * float(x.m3)) / 6.0
    square = max(float(x.m2) - 2.0 * value * xy + value**2 * float(y.m2), 0.0)
    cube = float(x.m3) - 3.0 * value * xxy + 3.0 * value**2 * xyy - value**3 * float(y.m3)
    deviation = float(np.sqrt(square / n))
    skew = cube / n / deviation**3 if deviation else 0.0
    error, low, high = measures.skewed_interval(n, 0.0, deviation, skew, z, False)
    ends = sorted((value + low / below, value + high / below))
    return Estimate(value, error / abs(below), ends[0], ends[1], note=note)
