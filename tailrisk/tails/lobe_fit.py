"""Lobes fitted to weighted points of an event by expectation-maximization, one added at a time while fresh points agree.

A new lobe starts where w p/q is largest: there the mixture so far makes the variance. How many there are is decided by the
relative entropy at a third of the points that no lobe was fitted to. Axes are kept where the spread of the points differs from
one by more than the eigenvalues of as many normals would (the edges of Marchenko and Pastur), so a lobe has few numbers in many
dimensions.

**Source:** Vlassis and Likas (2002), "A greedy EM algorithm for Gaussian mixture learning"; Marchenko and Pastur (1967).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import log_ndtr

from .lobes import AXES, MOST, NORMALIZER, Lobes, log_densities, log_density

EDGES = np.concatenate(
    [[0.0], np.linspace(0.01, 0.6, 40)]
)  # quantiles of the points that are tried as the edge of a lobe
FALLS = (0.02, 0.5)  # mean distances below an edge
BELOW = (0.05, 0.95)
STEP = 1.25  # most by which p/q rises at an edge
NARROWEST = 0.05  # deviation across a lobe
WIDER = 1.05  # a logistic law that is a little wider than the points loses little and covers their neighbors
MANY = 64  # normals, beyond which no axes are looked for
STARTS = (0.02, 0.05, 0.15)  # shares of the weight from which a new lobe is started
FEWEST = 5.0  # effective points of a lobe
_LOGISTIC = np.pi / np.sqrt(3.0)

Points = Float[np.ndarray, "points normals"]
Weights = Float[np.ndarray, " points"]


class Sample(NamedTuple):
    """Points of the event with their weights, which add up to one."""

    z: Points
    weight: Weights

    def part(self, chosen: np.ndarray) -> "Sample":
        weight = self.weight[chosen]
        return Sample(self.z[chosen], weight / weight.sum())


def one(sample: Sample, toward: Float[np.ndarray, " normals"] | None = None) -> Lobes:
    """The lobe of largest likelihood that looks from the origin to the mean of the points, or in a given direction."""
    z, weight = sample
    effective, d = 1.0 / np.sum(weight**2), z.shape[1]
    if toward is None:
        mean = weight @ z
        toward = mean / max(float(np.linalg.norm(mean)), 1e-12)
    x = z @ toward
    edge, slope, below = _along(x, weight, effective)
    axes, center, scale = np.zeros((AXES, d)), np.zeros(AXES), np.zeros(AXES)
    if 1 < d <= MANY and effective >= FEWEST:
        rest = z - x[:, None] * toward
        middle = weight @ rest
        away = (rest - middle) * np.sqrt(weight)[:, None]
        value, vector = np.linalg.eigh(away.T @ away + np.outer(toward, toward))
        noise = np.sqrt((d + 1.0) / effective)
        differs = (value > (1.0 + noise) ** 2) | (value < max(1.0 - noise, 0.0) ** 2)
        across = differs & (np.abs(vector.T @ toward) < 1e-6)
        entropy = np.where(across, value - 1.0 - np.log(np.maximum(value, 1e-9)), -1.0)
        kept = np.argsort(-entropy)[: min(AXES, int(across.sum()))]
        axes[: kept.size], center[: kept.size] = vector[:, kept].T, middle @ vector[:, kept]
        scale[: kept.size] = WIDER / _LOGISTIC * np.maximum(np.sqrt(np.maximum(value[kept], 0.0)), NARROWEST)
    return Lobes(*(np.array([v]) for v in (1.0, toward, edge, slope, below, axes, center, scale)))


def _along(x: Weights, weight: Weights, effective: float) -> tuple[float, float, float]:
    """Edge, slope and share below the edge of largest likelihood under two bounds on the weights.

    Below the edge p rises like exp(edge t) at a distance t. Points of the event that fall off there like exp(-t/m) have weights
    with a variance if 1/slope < 1/m - edge; and p/q is to rise by `STEP` at most where the edge is passed.
    """
    order = np.argsort(x)
    x, weight = x[order], weight[order]
    log_normal = -0.5 * x * x - NORMALIZER
    mass, first, log_p = (np.concatenate([[0.0], np.cumsum(weight * f)]) for f in (np.ones_like(x), x, log_normal))
    place = np.unique(np.minimum(np.searchsorted(mass[1:], EDGES), x.size - 1))
    edge, share = x[place], mass[place]
    short = edge * share - first[place]
    mean = np.maximum(short / np.maximum(share, 1e-12), FALLS[0])
    rate = 1.0 / mean - np.maximum(edge, 0.0)
    slope = 1.0 / np.maximum(rate, 0.2 / mean)
    hazard = np.exp(-0.5 * edge * edge - NORMALIZER - log_ndtr(-edge))
    least = slope * hazard / (STEP + slope * hazard)
    below = np.clip((share * effective + 1.0) / (effective + 2.0), np.maximum(least, BELOW[0]), BELOW[1])
    value = (1.0 - share) * (np.log1p(-below) - log_ndtr(-edge)) + share * np.log(below / slope) - short / slope
    value = np.where((rate * mean >= 0.2) & (mean <= FALLS[1]), value - log_p[place], -np.inf)
    best = int(np.argmax(value))
    return float(edge[best]), float(slope[best]), float(below[best])


def joined(parts: list[Lobes], shares: np.ndarray, total: float) -> Lobes:
    """Several lobes as one tree, with shares in proportion that add up to the total."""
    lobes = Lobes(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))
    return lobes._replace(share=total * shares / shares.sum())


def improved(lobes: Lobes, others: tuple[float, float], sample: Sample, rounds: int) -> Lobes:
    """Rounds of expectation-maximization; lobes that too few points speak for are dropped."""
    total = 1.0 - sum(others)
    for _ in range(rounds):
        parts = log_densities(lobes, others, sample.z)
        mine = np.exp(parts - np.logaddexp.reduce(parts, axis=1)[:, None])[:, 2:] * sample.weight[:, None]
        mass = mine.sum(axis=0)
        effective = mass**2 / np.maximum(np.sum(mine**2, axis=0), 1e-300)
        kept = np.flatnonzero((mass > 1e-3) & (effective >= FEWEST))
        if kept.size == 0:
            return lobes
        lobes = joined([one(Sample(sample.z, mine[:, k] / mass[k])) for k in kept], mass[kept], total)
    return lobes


def _grown(lobes: Lobes, others: tuple[float, float], sample: Sample, rng: np.random.Generator) -> Lobes:
    """One lobe more: the best of a few started at points drawn in proportion to w p/q."""
    z, weight = sample
    excess = np.log(np.maximum(weight, 1e-300)) - log_density(lobes, others, z)
    chance = np.exp(excess - excess.max())
    best, most = lobes, -np.inf
    for seed, part in zip(rng.choice(weight.size, len(STARTS), p=chance / chance.sum()), STARTS, strict=True):
        order = np.argsort(np.sum((z - z[seed]) ** 2, axis=1))
        near = order[: max(int(np.searchsorted(np.cumsum(weight[order]), part)), 10)]
        mass = float(weight[near].sum())
        if mass**2 < 4.0 * float(np.sum(weight[near] ** 2)) or mass >= 1.0:
            continue
        share = np.append(lobes.share / lobes.share.sum() * (1.0 - mass), mass)
        started = joined([lobes, one(sample.part(near))], share, 1.0 - sum(others))
        trial = improved(started, others, sample, 4)
        found = float(weight @ log_density(trial, others, z))
        if found > most:
            best, most = trial, found
    return best


def fitted(
    sample: Sample,
    others: tuple[float, float],
    directions: list[Float[np.ndarray, " normals"]],
    rng: np.random.Generator,
) -> Lobes:
    """The lobes for the points; a single one may look in one of the given directions, if held-out points prefer it."""
    test = np.arange(sample.weight.size) % 3 == 0
    train, held = sample.part(~test), sample.part(test)

    def score(lobes: Lobes) -> float:
        return float(held.weight @ log_density(lobes, others, held.z))

    def single(part: Sample, toward: np.ndarray | None) -> Lobes:
        return joined([one(part, toward)], np.ones(1), 1.0 - sum(others))

    choices = [None, *directions]
    firsts = [single(train, toward) for toward in choices]
    scores = [score(lobes) for lobes in firsts]
    first = int(np.argmax(scores))
    lobes, best, most, worse = firsts[first], firsts[first], scores[first], 0
    while lobes.share.size < MOST and worse < 2:
        more = _grown(lobes, others, train, rng)
        lobes, found, worse = more, score(more), worse + 1
        if found > most:
            best, most, worse = more, found, 0
    return single(sample, choices[first]) if best.share.size == 1 else improved(best, others, sample, 3)


def slotted(lobes: Lobes, slots: int, total: int) -> tuple[Lobes, np.ndarray]:
    """The lobes with shares that are whole numbers of `slots` among `total`, at least one each, and those numbers."""
    wanted = lobes.share / lobes.share.sum() * slots
    order = np.argsort(-wanted)[:slots]
    lobes, wanted = Lobes(*(leaf[order] for leaf in lobes)), wanted[order]
    wanted = wanted * slots / wanted.sum()
    count = np.maximum(np.floor(wanted), 1.0)
    while count.sum() > slots:
        count[np.argmax(np.where(count > 1.0, count - wanted, -np.inf))] -= 1.0
    for _ in range(int(slots - count.sum())):
        count[np.argmax(wanted - count)] += 1.0
    return lobes._replace(share=count / total), count.astype(int)


def padded(lobes: Lobes) -> Lobes:
    """The same mixture with as many lobes as there may be, the others with no share, so that all share a program."""
    d, more = lobes.toward.shape[1], MOST - lobes.share.size
    idle = one(Sample(np.ones((2, d)), np.full(2, 0.5)))._replace(share=np.zeros(1))
    return Lobes(*(np.concatenate([leaf, *[extra] * more]) for leaf, extra in zip(lobes, idle, strict=True)))


def slope_direction(z: Points, x: Float[np.ndarray, " points"]) -> Float[np.ndarray, " normals"] | None:
    """The direction in which a linear fit of x rises; none from too few points.

    All points tell of it, not those of the event alone, so it is exact where x is linear, in any dimension.
    """
    n, d = z.shape
    if d == 1 or n < 1.3 * d + 20:
        return None
    centered, x = z - z.mean(axis=0), x - x.mean()
    gradient = np.linalg.solve(centered.T @ centered + 1e-9 * n * np.eye(d), centered.T @ x)
    size = float(np.linalg.norm(gradient))
    return gradient / size if np.isfinite(size) and size > 0.0 else None
