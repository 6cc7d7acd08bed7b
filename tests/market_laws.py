"""Constructors of every market law with small arguments, and one way to run them: shared by the tests of laws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tailrisk import _streams
from tailrisk._fields import cast, parse_duration
from tailrisk.data.series import PriceArray
from tailrisk.market import (
    ArithmeticBrownian,
    BlockBootstrap,
    GeometricBrownian,
    Hawkes,
    Heston,
    JumpDiffusion,
    KouJumps,
    MeanReverting,
    MertonJumps,
    RegimeSwitching,
    Replay,
)

DAY = parse_duration("1d")
HOUR = parse_duration("1h")


def prices(assets=2, times=400, seed=3):
    """Prices with fat tails and a common factor."""
    rng = np.random.default_rng(seed)
    moves = 0.01 * (rng.standard_t(4, (times, assets)) + rng.standard_t(4, (times, 1)))
    return 100.0 * np.exp(np.cumsum(moves, axis=0))


LAWS = {
    "geometric brownian": lambda: GeometricBrownian(0.8, drift=0.1),
    "geometric brownian, 3 assets": lambda: GeometricBrownian([0.6, 0.8, 1.0], drift=0.1, correlation=0.7),
    "arithmetic brownian": lambda: ArithmeticBrownian([0.6, 0.6], drift=0.1, correlation=0.5),
    "mean reverting": lambda: MeanReverting(0.02, "6h"),
    "merton": lambda: JumpDiffusion(MertonJumps(rate=200, deviation=0.05, mean=-0.03), 0.7, drift=0.1),
    "kou": lambda: JumpDiffusion(KouJumps(rate=200, up=0.4, up_mean=0.02, down_mean=0.03), 0.7, drift=0.1),
    "merton, 2 assets": lambda: JumpDiffusion(
        MertonJumps(rate=200, deviation=0.05), [0.7, 0.9], correlation=-0.3, loading=[1.0, 1.5], drift=0.1
    ),
    "heston": lambda: Heston(
        initial_variance=0.5, mean_reversion=20, long_variance=0.5, vol_of_variance=3, leverage=-0.5, drift=0.1
    ),
    "heston, 2 assets": lambda: Heston(0.5, 20, 0.5, 3, -0.5, drift=0.1, loading=[1.0, 1.3], correlation=0.5),
    "hawkes": lambda: Hawkes(MertonJumps(rate=400, deviation=0.01, most=8), 0.3, branching=0.7, memory="3h", drift=0.1),
    "regime switching": lambda: RegimeSwitching(
        MertonJumps(rate=500, deviation=0.02, mean=-0.01),
        volatility=[0.5, 0.6],
        crash_volatility=[1.5, 1.8],
        enter=100,
        leave=300,
        calm_jumps=0.1,
        drift=0.1,
        crash_drift=0.1,
        correlation=0.5,
        crash_correlation=0.9,
    ),
    "block bootstrap": lambda: BlockBootstrap(PriceArray(prices(), "1h"), block="10h").prepare(),
    "replay": lambda: Replay(PriceArray(prices(), "1h")).prepare(),
}
REAL_RETURNS = ("block bootstrap", "replay")


@eqx.filter_jit
def _paths(market, dt, keys, numbers, steps, dtype):
    def path(number):
        def step(state, i):
            shock, state = market.move(state, _streams.noise(keys, number, i, market.draws, dtype), dt)
            return state, shock

        return jax.lax.scan(step, market.init(dtype), jnp.arange(steps, dtype=jnp.uint32))[1]

    return jax.vmap(path)(numbers)


def run(market, steps, dt, count, seed=1, dtype=jnp.float64, first=0):
    """Log returns (paths, steps, assets) and crash factors (paths, steps) of `count` paths."""
    keys, numbers = _streams.noise_keys(seed, "market"), np.arange(first, first + count, dtype=np.uint32)
    shock = _paths(cast(market, dtype), jnp.asarray(dt, dtype), keys, numbers, steps, dtype)
    return np.asarray(shock.log_return), np.asarray(shock.crash)


def mean_error(sample):
    """Mean and its standard error over the first axis."""
    sample = np.asarray(sample, float)
    return sample.mean(axis=0), sample.std(axis=0, ddof=1) / np.sqrt(len(sample))


def close(sample, value, largest_error, errors=4.0):
    """The mean is within `errors` standard errors of the value, and the standard error is small enough."""
    mean, error = mean_error(np.asarray(sample, float))
    assert np.all(error <= largest_error), f"standard error {error} above {largest_error}"
    assert np.all(np.abs(mean - value) <= errors * error), f"{mean} +- {error}, expected {value}"


def batch_errors(sample, statistic, batches=40):
    """A statistic of the whole sample with a standard error from batches."""
    parts = np.array([statistic(part) for part in np.array_split(sample, batches)])
    return statistic(sample), parts.std(axis=0, ddof=1) / np.sqrt(batches)
