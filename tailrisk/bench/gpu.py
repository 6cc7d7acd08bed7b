"""All that is asked of a GPU, measured in one go: speed against targets, agreement with a CPU in double precision, rivals.

Programs run once before they are timed, every time is waited for, and batches are as large as pays: a short list of sizes is
tried, and a size that does not fit into the memory is halved. Times are of the wall. Speeds are printed as met or missed;
numbers that do not agree end the script with status 1. On a CPU the same script runs at a small size and judges no speed.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np

from .. import _streams
from .._fields import InputError
from ..figures import style
from ..scenario import Scenario, VenueSystem
from ..simulate import LANES, AbstractSystem, batch, cached_paths, entry_point, outcomes, simulate
from . import gpu_report, gradient_cost
from .models import accounts_scenario, basket_scenario, groups_of, ladder_scenario, market_of
from .timing import disagreements, machine, race, save

BAD_INPUT, CHECK_FAILED = 2, 1
WHOLE = 1_000_000  # paths of the targets
COMPARED = ("bad_debt", "forced_notional", "fees", "liquidated_share", "market_fall")
SAME = 1e-3  # relative difference up to which two precisions tell the same path
OTHER = 0.02  # share of paths that may be another one: rounding moves a breach by a step, or an account across it
NO_GPU = (
    "no GPU found: JAX sees only a CPU; install 'tailrisk-jax[cuda]' on a machine with an NVIDIA GPU, or",
    "try the script out on this one: tailrisk bench gpu --device cpu --paths 2048",
)
TARGETS = {"ladder": 2e10, "whole": 0.05, "products": 0.4}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is run. `paths` of the ladder, `few` of the accounts kernel, `pairs` in both precisions."""

    paths: int = WHOLE
    few: int = 16_384
    pairs: int = 65_536
    chunks: tuple[int, ...] = (15_680, 62_528, 250_048, WHOLE)
    few_chunks: tuple[int, ...] = (512, 2_048, 8_192)
    accounts: int = 20_000
    groups: int = 1_000
    assets: int = 32
    horizon: str = "1d"
    derivatives: tuple[int, ...] = gradient_cost.COUNTS
    rival: bool = True
    repeats: int = 5

    def of(self, scenario: Scenario) -> Scenario:
        """The scenario over the horizon of this size."""
        return dataclasses.replace(scenario, horizon=self.horizon)


class Target(NamedTuple):
    """A number, what it should be, and what is said of it."""

    name: str
    value: float
    wanted: float
    most: bool  # the target is an upper limit
    judged: bool

    @property
    def verdict(self) -> str:
        """Met, missed, or why not judged."""
        if not self.judged:
            return "not judged: it is asked of a GPU and a million paths of a day"
        return "met" if (self.value <= self.wanted if self.most else self.value >= self.wanted) else "missed"


def run(paths: int, repeats: int, out: Path | None, device: str) -> int:
    """Prints everything, writes `gpu.json` and a figure into `out`; status 2 without a GPU, 1 if numbers do not agree."""
    if device == "cpu" and jax.default_backend() != "cpu":
        raise InputError("--device cpu: JAX works on a GPU here; set JAX_PLATFORMS=cpu for a trial without it")
    if device == "gpu" and jax.default_backend() == "cpu":
        for line in NO_GPU:
            click.echo(f"error: {line}", err=True)
        return BAD_INPUT
    about = machine()
    click.echo(f"{about['cpu']}, {about['cores']} cores, load {about['load']}, {about['device']}")
    click.echo("  ".join(f"{package} {number}" for package, number in about["versions"].items()))
    if device == "cpu":
        click.echo("no GPU is used: a trial of the script, whose speeds say nothing about one")
    found = measure(sized(device, paths, repeats)) | {"machine": about}
    save(out, "gpu.json", found)
    if out is not None:
        style.save(gpu_report.draw(found), out, "gpu")
    for line in found["failed"]:
        click.echo(f"check failed: {line}", err=True)
    return CHECK_FAILED if found["failed"] else 0


def sized(device: str, paths: int, repeats: int) -> Size:
    """The whole size on a GPU; on a CPU small batches, by default 2,048 paths."""
    on_gpu = device == "gpu"
    paths = paths or (WHOLE if on_gpu else 2_048)
    few = min(Size.few if on_gpu else 256, paths)
    return Size(
        paths=paths,
        few=few,
        pairs=min(Size.pairs, paths),
        chunks=_parts(paths, (64, 16, 4, 1) if on_gpu else (4, 1)),
        few_chunks=_parts(few, (32, 8, 2) if on_gpu else (4, 1)),
        groups=Size.groups if on_gpu else 128,
        assets=Size.assets if on_gpu else 4,  # a CPU takes minutes to compile 32
        repeats=repeats,
    )


def _parts(paths: int, shares: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of batches, the smallest first, as shares of the paths in whole lanes."""
    return tuple(dict.fromkeys(LANES * -(-paths // (share * LANES)) for share in shares))


def measure(size: Size, say: Callable[[str], None] = click.echo) -> dict[str, Any]:
    """Everything, as numbers for a file; `say` hears of each part when it is done."""
    ladder, accounts, basket = (
        size.of(scenario)
        for scenario in (
            ladder_scenario(size.accounts),
            accounts_scenario(size.groups),
            basket_scenario(size.assets, size.groups),
        )
    )
    found: dict[str, Any] = {"size": dataclasses.asdict(size)}
    for name, scenario, paths, chunks in (
        ("ladder", ladder, size.paths, size.chunks),
        ("accounts", accounts, size.few, size.few_chunks),
        ("basket", basket, size.few, size.few_chunks),
    ):
        found[name] = speed(scenario.build(np.float32), paths, chunks, size.repeats)
        say(gpu_report.speed(name, found[name], size.groups if name != "ladder" else 1))
    found["products"] = products(found["basket"]["chunk"], size.assets, size.groups, size.repeats)
    # of equity and requirement of every account, a product and a sum for each asset
    terms = 4.0 * size.assets * size.groups
    found["products"]["share"] = terms * found["basket"]["path_steps"] / found["products"]["highest"]
    say(gpu_report.products(found["products"]))
    judged = jax.default_backend() != "cpu" and size.horizon == "1d"
    targets = [
        Target("ladder, path-steps/s", found["ladder"]["path_steps"], TARGETS["ladder"], False, judged),
        Target(
            "1e6 paths x 288 steps x 20,000 accounts, s",
            float(np.median(found["ladder"]["seconds"])),
            TARGETS["whole"],
            True,
            judged and size.paths == WHOLE,
        ),
        Target("accounts kernel over matrix products", found["products"]["share"], TARGETS["products"], False, judged),
    ]
    failed = []
    if size.rival:
        found["torch"], failed = rivals(
            ladder, accounts, size, found["ladder"]["chunk"], found["accounts"]["chunk"], say
        )
    jax.config.update("jax_enable_x64", True)  # last, for the double precision of what follows
    found["agreement"] = {}
    for name, scenario, pairs, chunk in (
        ("ladder", ladder, size.pairs, found["ladder"]["chunk"]),
        ("accounts", accounts, min(size.pairs, size.few), found["accounts"]["chunk"]),
    ):
        found["agreement"][name] = agreement(scenario, pairs, chunk)
        say(gpu_report.agreement(name, found["agreement"][name]))
        failed += [f"{name}, {line}" for line in apart(found["agreement"][name])]
    rows: list[gradient_cost.Row] = []
    for count in size.derivatives:
        rows += gradient_cost.smooth(
            count, min(size.pairs, 4_096), size.repeats, gradient_cost.tiered(), np.dtype(float)
        )
    found["gradients"] = [row._asdict() for row in rows]
    say(gpu_report.gradients(rows))
    failed += gradient_cost.failures(rows)
    found["targets"] = [target._asdict() | {"verdict": target.verdict} for target in targets]
    say(gpu_report.targets(found["targets"]))
    return found | {"failed": failed}


def halving(call: Callable[[int], Any], size: int) -> tuple[Any, int]:
    """What `call(size)` gives, and the size: half of it, and half of that, where the memory of the device is full."""
    while True:
        try:
            return call(size), size
        except (RuntimeError, MemoryError) as error:
            full = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error)
            if not full or size <= LANES:
                raise
        size = max(LANES, size // 2 // LANES * LANES)


_program = entry_point(lambda system, keys, paths: batch(system, keys, paths)[0])


def _launched(system: AbstractSystem, paths: int, seed: int, chunk: int) -> float:
    """Seconds until the last of whole chunks is done, without copies to the host."""
    keys = _streams.noise_keys(seed, "market")
    numbers = [jnp.arange(first, first + chunk, dtype=jnp.uint32) for first in range(0, paths, chunk)]
    jax.block_until_ready(numbers)
    began = time.perf_counter()
    jax.block_until_ready([_program(system, keys, some) for some in numbers])
    return time.perf_counter() - began


def speed(system: AbstractSystem, paths: int, chunks: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """Path-steps/s by size of a batch, and seconds of all paths in batches of the best size."""
    tried: dict[int, float] = {}

    def rate(chunk: int) -> float:
        _launched(system, chunk, 0, chunk)
        return chunk * system.steps / min(_launched(system, chunk, 1 + turn, chunk) for turn in range(2))

    for wanted in chunks:
        found, chunk = halving(rate, wanted)
        tried[chunk] = found
        if chunk < wanted:
            break
    best = max(tried, key=lambda chunk: tried[chunk])
    seconds, best = halving(lambda chunk: [_launched(system, paths, 10 + k, chunk) for k in range(repeats)], best)
    made = best * -(-paths // best)
    return {
        "paths": made,
        "steps": system.steps,
        "chunk": best,
        "tried": tried,
        "seconds": [spent * paths / made for spent in seconds],  # of the paths asked for, the last batch being full
        "path_steps": made * system.steps / float(np.median(seconds)),
    }


def products(paths: int, assets: int, groups: int, repeats: int) -> dict[str, float]:
    """Operations/s of the product (paths, assets) x (assets, two numbers of each account): exact float32, and JAX's default."""
    left, right = jnp.ones((paths, assets), jnp.float32), jnp.ones((assets, 2 * groups), jnp.float32)
    found = {}
    for name, precision in (("highest", jax.lax.Precision.HIGHEST), ("default", jax.lax.Precision.DEFAULT)):
        product = jax.jit(partial(jnp.dot, precision=precision))
        jax.block_until_ready(product(left, right))
        spent = []
        for _ in range(repeats):
            began = time.perf_counter()
            jax.block_until_ready([product(left, right) for _ in range(8)])
            spent.append((time.perf_counter() - began) / 8)
        found[name] = 2.0 * paths * assets * 2 * groups / float(np.median(spent))
    return found


def agreement(scenario: Scenario, paths: int, chunk: int) -> dict[str, dict[str, float]]:
    """Float32 on the device against float64 on the CPU for the same path numbers.

    By outcome: both means, the standard error of the second, the difference of the means over it, and the share of paths that
    differ by more than `SAME` of their size or of the mean, whichever is larger.
    """
    numbers = np.arange(paths)
    single = halving(partial(_outcomes, scenario.build(np.float32), numbers), chunk)[0]
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        precise = scenario.build(np.float64)
        double = _outcomes(precise, numbers, min(cached_paths(precise), chunk))
    found = {}
    for name in COMPARED:
        a, b = single[name].astype(float), double[name]
        error = float(b.std(ddof=1) / np.sqrt(b.size))
        gap = abs(float(a.mean() - b.mean()))
        other = np.abs(a - b) > SAME * np.maximum(np.abs(b), abs(b.mean()))
        found[name] = {
            "float32": float(a.mean()),
            "float64": float(b.mean()),
            "std_error": error,
            "apart": gap / error if error else float("inf") if gap else 0.0,
            "other_paths": float(other.mean()),
        }
    return found


def _outcomes(system: VenueSystem, numbers: np.ndarray, chunk: int) -> dict[str, np.ndarray]:
    parts = [
        outcomes(system, 1, numbers[first : first + chunk], lanes=chunk)[0] for first in range(0, numbers.size, chunk)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def apart(found: dict[str, dict[str, float]]) -> Iterator[str]:
    """Outcomes whose means are not within one standard error, or of which too many paths differ."""
    for name, row in found.items():
        if not row["apart"] <= 1.0:
            yield f"{name}: the means of float32 and float64 are {row['apart']:.2g} standard errors apart"
        if not row["other_paths"] <= OTHER:
            yield f"{name}: {row['other_paths']:.1%} of the paths differ by more than {SAME:g}, {OTHER:.0%} may"


def rivals(
    ladder: Scenario, accounts: Scenario, size: Size, chunk: int, few: int, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """Our kernels beside PyTorch on the same device, copies to the host included, and what does not agree."""
    if find_spec("torch") is None:
        say("PyTorch is left out, it is not installed: pip install 'tailrisk-jax[torch]'")
        return {}, []
    import torch  # pyright: ignore[reportMissingImports]

    from . import torch_rivals

    where = "cuda" if torch.cuda.is_available() else "cpu"
    if (where == "cuda") != (jax.default_backend() != "cpu"):
        say("PyTorch is left out: it and JAX do not see the same device")
        return {}, []
    found, failed = {}, []
    for name, scenario, rival, paths, lanes in (
        ("ladder", ladder, torch_rivals.Ladder, size.paths, chunk),
        ("accounts", accounts, torch_rivals.Accounts, size.few, few),
    ):
        ours = partial(_ours, scenario.build(np.float32), lanes)
        theirs = rival(market_of(scenario), groups_of(scenario))
        work = scenario.steps * (1.0 if name == "ladder" else size.groups)

        def contest(paths: int, ours: Any = ours, theirs: Any = theirs, work: float = work) -> Any:
            return race({"tailrisk": ours, "torch": theirs}, paths, paths * work, size.repeats)

        (both, timings), paths = halving(contest, paths)
        failed += [f"{name}, {line}" for line in disagreements(both)]
        found[name] = {who: timing._asdict() for who, timing in timings().items()} | {"paths": paths, "device": where}
        say(gpu_report.rival(name, found[name]))
    return found, failed


def _ours(system: VenueSystem, chunk: int, paths: int, seed: int) -> dict[str, np.ndarray]:
    made = simulate(system, paths=paths, seed=seed, chunk=chunk)
    return {name: made[name] for name in ("forced_notional", "bad_debt", "fees")}
