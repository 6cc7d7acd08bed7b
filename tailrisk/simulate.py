"""The one scan over time and the one loop over chunks of paths.

Programs that run whole paths are `batch` under `entry_point`. A path is a pure function of (system, seed, path number), so
results do not depend on how paths are cut into chunks. `rollout` may be differentiated in what the system is made of; see
`_hard.py` for what raises.
"""

import abc
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from . import _streams
from ._streams import Draws, Noise

CACHED_BYTES = 2**22  # bytes of the states of a batch on a CPU: more do not stay in a core's caches
MOST_CACHED = 16_384  # paths: more gain nothing

LANES = 64  # compiled batches are whole multiples of this, so that the last chunk runs the same program

Job = TypeVar("Job")
Output = TypeVar("Output")


class AbstractSystem(eqx.Module):
    """What an estimator sees: a path that starts, moves with given noise, and has an outcome. It knows no finance."""

    steps: eqx.AbstractVar[int]
    dtype: eqx.AbstractVar[Any]

    @property
    @abc.abstractmethod
    def draws(self) -> Draws:
        """Numbers of noise per step (structural)."""

    @abc.abstractmethod
    def init(self) -> PyTree:
        """The state before the first step."""

    @abc.abstractmethod
    def step(self, state: PyTree, noise: Noise) -> tuple[PyTree, PyTree]:
        """One step; returns the new state and what it shows to an observer."""

    @abc.abstractmethod
    def outcome(self, state: PyTree) -> dict[str, Float[Array, ""]]:
        """Named numbers of a finished path."""


class AbstractWrapper(AbstractSystem):
    """A system that runs another one, with its steps, its precision and its noise."""

    system: eqx.AbstractVar[AbstractSystem]

    if TYPE_CHECKING:  # a type checker takes the properties below for arguments
        steps: int = eqx.field(init=False)
        dtype: Any = eqx.field(init=False)
    else:

        @property
        def steps(self) -> int:
            """Steps of the system."""
            return self.system.steps

        @property
        def dtype(self) -> Any:
            """Precision of the system."""
            return self.system.dtype

    @property
    def draws(self) -> Draws:
        """Noise of the system."""
        return self.system.draws


def rollout(system: AbstractSystem, draw: Callable[[Any], Noise], record: bool = False) -> tuple[PyTree, PyTree]:
    """Runs one path; `draw(step)` gives the noise. Returns the last state and, if recorded, what each step showed."""

    # The noise of a step is drawn in the step before and carried, or the compiler fuses the generator into every use of it.
    def body(carry: PyTree, step: Any) -> tuple[PyTree, PyTree]:
        state, noise = carry
        state, shown = system.step(state, noise)
        return (state, draw(step + 1)), shown if record else None

    begin = system.init(), draw(jnp.uint32(0))
    (state, _), shown = jax.lax.scan(body, begin, jnp.arange(system.steps, dtype=jnp.uint32))
    return state, shown


# jaxlib 0.10.2 on CPUs reads the wrong rows in fused sums over a short axis of many lanes (jax issue 39103), so the fusion
# is switched off where paths run; later versions accept the option and are tested with it.
_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""} if jax.__version_info__ < (0, 13) else None


entry_point: Any = partial(eqx.filter_jit, compiler_options=_OPTIONS)  # pyright: ignore[reportCallIssue]
"""The `jit` of every program that runs paths."""


def batch(
    system: AbstractSystem, keys: Any, paths: Any, record: bool = False, steps_first: bool = False
) -> tuple[PyTree, PyTree]:
    """Outcomes of the paths with the given numbers under the keys of `_streams.noise_keys` or another source, to be traced.

    What steps showed is by path and step or, as it is made and without a copy, by step and path.
    """

    def one(path: Any) -> tuple[PyTree, PyTree]:
        draw = _streams.noise_of(keys, path, system.steps, system.draws, system.dtype)
        state, shown = rollout(system, draw, record)
        return system.outcome(state), shown

    return jax.vmap(one, out_axes=(0, int(steps_first)))(paths)


def until(
    system: AbstractSystem, keys: Any, paths: Any, states: PyTree, since: Any, stop: Callable[[PyTree], Any]
) -> tuple[PyTree, Any, Any]:
    """Paths that go on from given states with their own noise of the steps `since` and later until `stop(state)` holds,
    to be traced: their last states, whether they were stopped, and the step from which they would go on.

    `keys` are those of a stream, or another source, as in `batch`.
    No step before the earliest of `since` is run: lanes sorted by it, in several calls, cost what they need.
    """

    def draw(step: Any) -> Noise:
        noise = lambda path: _streams.noise_of(keys, path, system.steps, system.draws, system.dtype)(step)  # noqa: E731
        return jax.vmap(noise)(paths)

    # As in `rollout`, the noise of a step is drawn in the step before and carried.
    def advance(step: Any, carried: tuple[PyTree, Noise, Any, Any]) -> tuple[PyTree, Noise, Any, Any]:
        def one(state: PyTree, noise: Noise, since: Any, stopped: Any, after: Any) -> tuple[PyTree, Any, Any]:
            new, _ = system.step(state, noise)
            moves = (step >= since) & ~stopped
            state = jax.tree.map(lambda old, now: jnp.where(moves, now, old), state, new)
            return state, stopped | (moves & stop(state)), jnp.where(moves, step + jnp.uint32(1), after)

        states, noise, stopped, after = carried
        states, stopped, after = jax.vmap(one)(states, noise, since, stopped, after)
        return states, draw(step + jnp.uint32(1)), stopped, after

    first = jnp.min(since)
    start = (states, draw(first), jax.vmap(stop)(states), since)
    states, _, stopped, after = jax.lax.fori_loop(first, jnp.uint32(system.steps), advance, start)
    return states, stopped, after


def resume(
    system: AbstractSystem, keys: Any, paths: Any, states: PyTree, since: Any
) -> dict[str, Float[Array, " lanes"]]:
    """Outcomes of paths that go on to the end from given states; see `until`."""
    states, _, _ = until(system, keys, paths, states, since, lambda state: jnp.zeros((), bool))
    return jax.vmap(system.outcome)(states)


def starts(system: AbstractSystem, lanes: int) -> PyTree:
    """The state before the first step, once for every lane."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (lanes, *jnp.shape(leaf))), system.init())


def state_bytes(system: AbstractSystem) -> int:
    """Memory of the state of one path."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(system.init)))


def cached_paths(system: AbstractSystem) -> int:
    """Most paths that run at a time on a core of a CPU, a power of two: as its caches hold, `LANES` at least."""
    fits = min(CACHED_BYTES // max(state_bytes(system), 1), MOST_CACHED)
    return max(LANES, 1 << max(fits, 1).bit_length() - 1)


_chunk = entry_point(batch)


def outcomes(
    system: AbstractSystem,
    seed: int,
    paths: np.ndarray,
    *,
    lanes: int = LANES,
    record: bool = False,
    keys: Any = None,
) -> tuple[dict[str, Any], PyTree]:
    """Outcomes of the paths with the given numbers, in one compiled batch; with `record`, the steps of each as well.

    The batch is filled up to a multiple of `lanes`, so that batches of different size can share a program.
    """
    paths = np.asarray(paths)
    if paths.size and (paths.min() < 0 or paths.max() >= _streams.MAX_PATHS):
        raise ValueError(f"path numbers must lie in [0, 2^32), got {paths.min()} to {paths.max()}; use another seed")
    if not 0 < system.steps < _streams.MAX_STEPS:
        raise ValueError(f"steps = {system.steps}: expected 1 to 2^24 - 1")
    filled = np.concatenate([paths, np.zeros(-paths.size % lanes, paths.dtype)])
    keys = _streams.noise_keys(seed, "market") if keys is None else keys
    result, shown = _chunk(system, keys, jnp.asarray(filled.astype(np.uint32)), record)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[: paths.size], (result, shown))


def spread(work: Callable[[Job], Output], jobs: Iterable[Job]) -> Iterator[Output]:
    """Results of `work(job)` in order, each made on one device of this process, in turn over all of them.

    A job runs the program that it would run on a single device, so its numbers have the same bits wherever it runs. On a
    CPU as many run at a time as there are cores, because one batch's small kernels cannot keep several busy.
    """

    def on(device: Any, job: Job) -> Output:
        with jax.default_device(device):
            return work(job)

    devices, pool = jax.local_devices(), ThreadPoolExecutor(_workers())
    try:
        yield from pool.map(on, itertools.cycle(devices), jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def _workers() -> int:
    """Batches that run at the same time."""
    cores = (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1
    return max(cores, len(jax.local_devices()))


def simulate(
    system: AbstractSystem,
    *,
    paths: int,
    seed: int = 0,
    chunk: int = 16_384,
    first: int = 0,
    progress: Callable[[dict[str, np.ndarray]], None] | None = None,
    keys: Any = None,
) -> dict[str, np.ndarray]:
    """Outcomes of the paths `first` to `first + paths - 1`, each an array over paths.

    `keys` are those of another source of noise than `seed`. `chunk` bounds memory and changes no number; `progress`
    sees the outcomes of every chunk in order. On a CPU a chunk is at most `cached_paths` and a core's share. Chunks run on
    all local devices (`spread`).
    """
    if paths < 1 or chunk < 1:
        raise ValueError(f"paths = {paths}, chunk = {chunk}: expected at least 1")
    if jax.default_backend() == "cpu":
        chunk = min(chunk, cached_paths(system), -(-paths // _workers()))
    lanes = LANES * -(-min(chunk, paths) // LANES)
    last = first + paths
    blocks = [np.arange(start, min(start + chunk, last), dtype=np.int64) for start in range(first, last, chunk)]
    parts = []
    for result, _ in spread(lambda numbers: outcomes(system, seed, numbers, lanes=lanes, keys=keys), blocks):
        parts.append(result)
        if progress is not None:
            progress(result)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
