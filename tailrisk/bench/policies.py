"""Policy tuning at equal budget: what each method certifies, with simulated paths as the currency.

The problem has a closed form in every dimension: d assets with normal losses of deviations s_i, a margin for each, the least sum
of margins under a limit on expected bad debt. At the optimum all margins have one probability of a shortfall, so
m_i = s_i q with (sum s_i) (phi(q) - q Phi(-q)) = limit. All methods search under the same upper confidence bounds with the same
room on fixed paths (common random numbers), and are certified alike on fresh ones. Rivals spend the budget on evaluations of one
sample (Bayesian optimization on fewer of a larger one); ours on a small sample and then on a large one.

Dimension 30 is left out: the full method carries one forward derivative per number and allows 16.
"""

import contextlib
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, stats

from .. import _streams
from .._fields import Real, real
from ..policy import (
    AbstractSampledModel,
    AugmentedLagrangian,
    Certification,
    Mean,
    Policy,
    Problem,
    Rate,
    Stream,
    TrustRegion,
    certify,
    refine,
    settle,
    tune,
)
from ..policy.lagrangian import ROOT
from ..policy.refine import Trials
from .timing import machine, save

BAD_INPUT, CHECK_FAILED = 2, 1
DIMENSIONS = (1, 2, 5, 10)
EVALUATIONS = 150  # of one sample: the budget of every method
LOWEST, HIGHEST, START = 0.01, 0.5, 0.2
PENALTY = 10.0  # of a relative violation, in starting costs, for methods that know no constraints
THRIFT = 5  # a Gaussian process gets this many times fewer evaluations of as many times larger samples
CERTIFICATION = Certification(pilot_paths=65_536, most_paths=524_288, chunk=65_536, resamples=1_999)


class Margins(AbstractSampledModel):
    """Normal losses of several assets beyond margins of their own."""

    deviations: Real = real(unit="1")

    def sample(self, parameters, keys, first, paths):
        size = self.deviations.size
        numbers = first + jnp.arange(paths, dtype=jnp.uint32)
        drawn = jax.vmap(lambda path: _streams.normals(keys[0], path, 0, size, self.deviations.dtype))(numbers)
        margins = jnp.stack([parameters[f"margin{i}"] for i in range(size)])
        excess = self.deviations[None, :] * drawn - margins[None, :]
        total = jnp.broadcast_to(jnp.sum(margins), (paths,))
        return {"bad_debt": jnp.sum(jax.nn.relu(excess), axis=1), "margin": total}


def problem_of(dimension: int) -> tuple[Problem, float]:
    """The problem and its least cost. The limit is 1 % of the sum of deviations: a shortfall in 27 steps for each asset."""
    deviations = np.geomspace(0.02, 0.06, dimension)
    limit = 0.01 * float(deviations.sum())
    q: float = optimize.brentq(lambda q: stats.norm.pdf(q) - q * stats.norm.sf(q) - 0.01, 0.0, 5.0)  # pyright: ignore[reportAssignmentType]
    variables = tuple(Rate(f"margin{i}", start=START, lower=LOWEST, upper=HIGHEST) for i in range(dimension))
    below = Mean(outcome="bad_debt", limit=limit)  # pyright: ignore[reportCallIssue]
    problem = Problem(Margins(deviations=deviations), variables, {"margin": 1.0}, (below,))
    return problem, q * float(deviations.sum())


class Result(NamedTuple):
    """What a method found: the certified policy (or None), and what it spent."""

    policy: Policy
    paths: int


class _Budget(Exception):
    """All paths are spent."""


class _Search:
    """A problem on one sample with a budget, in free numbers; competitors minimize `penalized`."""

    def __init__(self, problem: Problem, stream: Stream, evaluations: int):
        self.problem, self.stream, self.evaluations = problem, stream, evaluations
        self.trials = Trials(problem, stream, 1.645, 0.03)
        self.scale = START * len(problem.variables)

    def penalized(self, free: np.ndarray) -> float:
        cost, over = self.both(free)
        return cost + PENALTY * max(over, 0.0)

    def both(self, free: np.ndarray) -> tuple[float, float]:
        """Cost over the starting cost, and the relative violation."""
        if len(self.trials.seen) >= self.evaluations:
            raise _Budget
        judged = self.trials.at(np.asarray(free, float))
        return judged.cost / self.scale, float(self.trials.violations(judged).max())

    def free(self, shares: np.ndarray) -> np.ndarray:
        """Free numbers of margins at shares of their range in (0, 1)."""
        steepness = 0.1 * START * (HIGHEST - LOWEST) / ((START - LOWEST) * (HIGHEST - START))
        center = np.log((START - LOWEST) / (HIGHEST - START))
        return (np.log(shares) - np.log1p(-shares) - center) / steepness

    def result(self) -> Result:
        free = self.trials.best()
        values = self.trials.values(free)
        return Result(Policy(values, np.zeros(1)), len(self.trials.seen) * self.stream.paths)


Method = Callable[[_Search, int], Result]


def _stopped(run: Callable[[], Any], search: _Search) -> Result:
    with contextlib.suppress(_Budget):
        run()
    return search.result()


def sobol(search: _Search, seed: int) -> Result:
    """Scrambled Sobol points over the whole range of every margin."""
    points = stats.qmc.Sobol(len(search.problem.variables), seed=seed)  # pyright: ignore[reportCallIssue]
    drawn = points.random(2 ** int(np.ceil(np.log2(search.evaluations))))
    return _stopped(lambda: [search.both(search.free(np.clip(p, 1e-6, 1 - 1e-6))) for p in drawn], search)


def nelder_mead(search: _Search, seed: int) -> Result:
    """Nelder and Mead (1965) on the penalized cost, from the start and then from random points, while paths last."""
    rng, size = np.random.default_rng(seed), len(search.problem.variables)

    def run() -> None:
        start = np.zeros(size)
        while True:
            optimize.minimize(search.penalized, start, method="Nelder-Mead", options={"xatol": 1e-2, "fatol": 1e-5})
            start = search.free(rng.uniform(0.05, 0.95, size))

    return _stopped(run, search)


def evolution(search: _Search, seed: int) -> Result:
    """CMA-ES (Hansen) on the penalized cost, restarted while paths last; in one dimension on the number and a copy."""
    import cma  # pyright: ignore[reportMissingImports]

    size = len(search.problem.variables)

    def merit(point: np.ndarray) -> float:
        return search.penalized(np.asarray(point)[:size])

    def run() -> None:
        restart = 0
        while True:
            options = {"seed": 1_000 * seed + restart + 1, "verbose": -9, "tolfun": 1e-6}
            strategy = cma.CMAEvolutionStrategy(np.zeros(max(size, 2)), 2.0, options)
            strategy.optimize(merit)
            restart += 1

    return _stopped(run, search)


def bayesian(search: _Search, seed: int) -> Result:
    """Constrained Bayesian optimization (Gardner et al. 2014): expected improvement times the probability to hold.

    Fewer evaluations on larger samples of the same budget: its cost beside the paths is cubic in evaluations. Its linear
    algebra is too small for more than one thread, which would only wait for each other.
    """
    from bayes_opt import BayesianOptimization, acquisition  # pyright: ignore[reportMissingImports]
    from threadpoolctl import threadpool_limits  # pyright: ignore[reportMissingImports]  # scikit-learn brings it

    size = len(search.problem.variables)
    stream = search.stream._replace(paths=THRIFT * search.stream.paths)
    large = _Search(search.problem, stream, search.evaluations // THRIFT)
    names = [f"x{i}" for i in range(size)]

    def shares(given: dict[str, float]) -> np.ndarray:
        return large.free(np.array([given[name] for name in names]))

    optimizer = BayesianOptimization(
        f=lambda **given: -large.both(shares(given))[0],
        pbounds=dict.fromkeys(names, (0.01, 0.99)),
        constraint=optimize.NonlinearConstraint(lambda **given: large.both(shares(given))[1], -np.inf, 0.0),
        acquisition_function=acquisition.ExpectedImprovement(xi=1e-3),
        random_state=seed,
        verbose=0,
        allow_duplicate_points=True,
    )
    points = min(5 + size, large.evaluations // 2)
    with threadpool_limits(1):
        return _stopped(lambda: optimizer.maximize(init_points=points, n_iter=large.evaluations - points), large)


def trust_region(search: _Search, seed: int) -> Result:
    """Ours without gradients: COBYQA with the limit as a constraint, on a fraction of the sample and then on all of it.

    Its own count leaves out a point per dimension and stage.
    """
    del seed
    size, budget = len(search.problem.variables), search.evaluations * search.stream.paths
    start = {variable.name: variable.start for variable in search.problem.variables}
    evaluations = 20 + 6 * size
    share = 0.25
    paths = int(budget / ((1.0 + share) * (evaluations + size + 3)))
    method = TrustRegion(shares=(share, 1.0), evaluations=evaluations, radius=2.0, shrink=0.05)
    found = refine(search.problem, start, search.stream._replace(paths=paths, chunk=paths), method)
    return Result(found.policy, int(found.evaluations * (1.0 + share) / 2.0 * paths))


def lagrangian(search: _Search, seed: int) -> Result:
    """Ours: augmented Lagrangian with forward-mode gradients, one evaluation a gradient; a small sample, then a large one."""
    del seed
    stream, spent, start, policy = search.stream, 0, None, None
    budget = search.evaluations * stream.paths
    for share, most in ((0.25, 80), (1.0, 40)):
        paths = max(int(share * (budget - spent) / most), 256)
        method = AugmentedLagrangian(most_paths=share * (budget - spent) - 4 * paths, tolerance=1e-4)
        tuned = tune(search.problem, seed=stream.seed, paths=paths, method=method, start=start, chunk=paths)
        spent, start = spent + (tuned.evaluations + 1) * paths, tuned.parameters
        policy = settle(tuned.problem, tuned.parameters, tuned.stream).policy
        spent += 2 * paths
    assert policy is not None
    return Result(policy, spent)


METHODS: dict[str, Method] = {
    "Sobol search": sobol,
    "Nelder-Mead, restarts": nelder_mead,
    "CMA-ES": evolution,
    "constrained Bayesian": bayesian,
    "ours without gradients": trust_region,
    "ours": lagrangian,
}


class Row(NamedTuple):
    """One method in one dimension: certified cost over the least cost there is, by seed (nan if not certified)."""

    regrets: tuple[float, ...]
    paths: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def certified(self) -> float:
        return float(np.mean(np.isfinite(self.regrets)))


def contest(dimension: int, method: Method, paths: int, seeds: int, evaluations: int = EVALUATIONS) -> Row:
    """A method on a problem, once for each seed, every policy certified on fresh paths of its own."""
    problem, least = problem_of(dimension)
    regrets, spent, seconds = [], [], []
    for seed in range(seeds):
        began = time.process_time()
        stream = Stream(ROOT, seed, paths, paths)
        result = method(_Search(problem, stream, evaluations), seed)
        seconds.append(time.process_time() - began)
        certificate = certify(problem, result.policy, seed=seed, method=CERTIFICATION)
        cost = float(sum(float(value) for value in result.policy.parameters.values()))
        regrets.append(cost / least - 1.0 if certificate.status == "certified" else np.nan)
        spent.append(result.paths)
    return Row(tuple(regrets), tuple(spent), tuple(seconds))


def run(paths: int, seeds: int, out: Path | None) -> int:
    """Prints a table per dimension and writes `bench-policy.json`."""
    missing = [name for name in ("cma", "bayes_opt") if find_spec(name) is None]
    if missing:
        click.echo(f"error: the rivals need {' and '.join(missing)}: pip install 'tailrisk-jax[compare]'", err=True)
        return BAD_INPUT
    jax.config.update("jax_enable_x64", True)
    paths, about = paths or 8_192, machine()
    click.echo(f"{about['cpu']}, {about['cores']} cores, load {about['load']}, {about['device']}, float64")
    click.echo(
        f"budget {EVALUATIONS * paths:,} simulated paths a search, {seeds} seeds; certified cost over the least cost"
    )
    results: dict[str, Any] = {"machine": about, "paths": paths, "seeds": seeds}
    for dimension in DIMENSIONS:
        rows = {name: contest(dimension, method, paths, seeds) for name, method in METHODS.items()}
        click.echo(f"\n{dimension} margin(s)")
        click.echo(f"{'':26}{'median':>9}{'range':>20}{'certified':>11}{'paths':>12}{'CPU s':>8}")
        for name, row in rows.items():
            click.echo(_line(name, row))
        results[str(dimension)] = {name: row._asdict() for name, row in rows.items()}
    click.echo("\ndimension 30: not run, forward mode carries at most 16 derivatives")
    save(out, "bench-policy.json", results)
    return 0


def _line(name: str, row: Row) -> str:
    held = np.array([regret for regret in row.regrets if np.isfinite(regret)])
    middle = f"{np.median(held):+.2%}" if held.size else "-"
    reach = f"{held.min():+.2%} to {held.max():+.2%}" if held.size else "-"
    return f"{name:26}{middle:>9}{reach:>20}{row.certified:>11.0%}{np.median(row.paths):>12,.0f}{np.median(row.seconds):>8.2f}"
