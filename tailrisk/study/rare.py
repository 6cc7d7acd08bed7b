"""Metrics of the tail of a run by weighted paths or splitting, beside the plain paths that give all others.

Every target has a sampling law of its own, tuned in pilot rounds and frozen as JSON in the run folder before its paths are drawn.
The weighted paths are kept in parts as they are done, so a killed run resumes to the same bytes. Bad debt of longs and of shorts
comes from paths that no single tilt leads to, so a law is a mixture: a tilt for falling prices, one for rising ones, and a share
of the law itself.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import tails
from .._streams import noise_keys
from ..scenario import VenueSystem
from ..tails import diagnostics, measures
from ..tails.branching import MANY, FittedBranching, ladder
from ..tails.diagnostics import Diagnosis, Result, Row, unconfirmed
from ..tails.one_step import tune
from ..tails.problem import AbstractProblem
from ..tails.sampler import Chunk, Fitted
from ..tails.targets import AbstractTarget, Hint, Probability, Tail
from ..tails.tilt import Law, Tilt, itself
from ..tails.venue import VenueProblem
from ..tails.weighted import one_sided
from .config import ConfigError
from .folder import read_arrays, write_arrays, write_text

ENOUGH = 10_000  # plain paths beyond a target that make its error 1 %: nothing to gain by a tilt
LEAST_GAIN = 4.0  # of a tilt in variance per path: its paths liquidate more and take up to a few times as long
FARTHEST = 256  # plain paths of a side that a tilt begins with
HITS = 100  # plain paths beyond a target from which their estimate is a check
ROUGH = 0.2  # relative error of a second estimate beyond which it confirms nothing


class Target(NamedTuple):
    """What is estimated: a measure of a path, what is wanted of it, and the metrics that it gives by name of the result."""

    name: str
    measure: str
    wanted: AbstractTarget
    metrics: dict[str, str]
    unit: str


class Answer(NamedTuple):
    """How a target was estimated and why so, with results by metric; none where plain paths do it."""

    target: Target
    estimator: str
    why: str
    results: dict[str, Result]
    gain: float
    check: dict[str, Any]

    @property
    def refused(self) -> bool:
        return any(result.refused for result in self.results.values())


class Told:
    """What a person sees while a target is worked on."""

    def __init__(
        self, tell: Callable[[str], None] | None = None, advance: Callable[[str, int, int], None] | None = None
    ):
        self.tell = tell or (lambda text: None)
        self.advance = advance or (lambda name, done, total: None)


def targets(run: Any) -> Iterator[Target]:
    """The tail levels of a run, each with a law of its own, and the exhaustion of the fund."""
    for level in np.atleast_1d(np.asarray(run.levels, float)):
        percent = f"{100 * level:g}"
        metrics = {f"var_{level:g}": f"bad_debt_var_{percent}", f"es_{level:g}": f"bad_debt_es_{percent}"}
        yield Target(f"tail_{percent}", "bad_debt", Tail((float(level),), "bad_debt"), metrics, "USD")
    metrics = {name: "fund_depletion_probability" for name in ("probability", "mean")}
    yield Target("exhaustion", "fund_use", Probability(1.0, "fund_use"), metrics, "1")


def answers(
    run: Any, system: VenueSystem, plain: dict[str, np.ndarray], folder: Path, told: Told
) -> tuple[list[Answer], dict[str, np.ndarray]]:
    """Answers for the targets of a run, and the weighted paths for its results."""
    found, arrays = [], {}
    for target in targets(run):
        answer = _Work(run, system, plain, folder, told, target).answer()
        told.tell(f"{target.name}: {answer.estimator}, because {answer.why}")
        for name, result in answer.results.items():
            told.tell(f"{target.name}: {_said(name, result, answer)}")
        found.append(answer)
        arrays |= {f"tail/{target.name}/{k}": v for k, v in _kept(folder, target).items()}
    return found, arrays


def _said(name: str, result: Result, answer: Answer) -> str:
    if result.refused:
        return f"{name} refused: {result.reason}"
    low, high = result.interval
    other = answer.check.get(name)
    by = (
        f"; {other['estimator']} {other['value']:.4g} +- {other['std_error']:.2g}, z = {other['z']:.2f}"
        if other
        else ""
    )
    return f"{name} = {result.value:.5g}, {low:.5g} to {high:.5g}{by}"


@dataclasses.dataclass
class _Work:
    """One target of a run."""

    run: Any
    system: VenueSystem
    plain: dict[str, np.ndarray]
    folder: Path
    told: Told
    target: Target

    def answer(self) -> Answer:
        """The target by the estimator that the run asks for, or that a pilot chooses."""
        wanted, hits, paths = self.run.estimator, self._plain_hits(), self.plain["bad_debt"].size
        if wanted == "splitting" and not self._exhausts:
            return self._left("splitting counts paths that reach a level, and gives no value-at-risk or shortfall")
        if wanted == "auto" and hits >= ENOUGH:
            return self._left(f"{hits:,} of {paths:,} plain paths are beyond it, an error of 1 % or less")
        if self._exhausts and not np.any(self.plain["bad_debt"] > 0.0):
            return self._left("no plain path has bad debt, so no law can be tuned; raise run.paths")
        frozen = self._frozen(self._fit)
        if wanted == "splitting":
            results = {"probability": self._by_splitting(frozen)}
            return self._checked(
                Answer(self.target, wanted, "run.estimator asks for it", self._named(results), math.nan, {})
            )
        gain = self._gain(frozen)
        if wanted == "auto" and not gain > LEAST_GAIN:
            said = f"a tilted path of the pilot is worth {gain:.3g} plain ones, {LEAST_GAIN:g} are needed to pay for its time"
            return self._left(said)
        why = f"a path of the frozen law is worth {gain:.3g} plain ones by its pilot"
        if wanted == "tilt":
            why = f"run.estimator asks for it ({why})"
        problem, paths, seed = self._problem(), self.run.tail_paths, self.run.seed
        parts = {} if self._exhausts else {"parts": self._parts(frozen, problem)}
        results = frozen.run(problem, paths, seed, **parts)
        return self._checked(Answer(self.target, "tilt", why, self._named(results), gain, {}))

    @property
    def _exhausts(self) -> bool:
        return isinstance(self.target.wanted, Probability)

    def _problem(self, side: str = "both") -> VenueProblem:
        return VenueProblem(self.system, self.target.measure, side)

    def _named(self, results: dict[str, Result]) -> dict[str, Result]:
        return {self.target.metrics[name]: result for name, result in results.items()}

    def _left(self, why: str) -> Answer:
        return Answer(self.target, "monte_carlo", why, {}, math.nan, {})

    def _plain_hits(self) -> int:
        wanted = self.target.wanted
        if isinstance(wanted, Tail):
            return round(self.plain["bad_debt"].size * (1.0 - wanted.levels[0]))
        return int(np.count_nonzero(self.plain["fund_depleted"] > 0.0))

    def _by_splitting(self, frozen: FittedBranching) -> Result:
        self.told.tell(f"{self.target.name}: splitting by trial steps, no path tilted")
        law = frozen.plain(*ladder(self._fund_use(), 1.0, MANY))
        return law.run(self._problem(), self.run.split_paths, self.run.seed)["probability"]

    def _frozen(self, fit: Callable[[], Any]) -> Any:
        """A law from the run folder, or a new one that is then kept there."""
        file = self.folder / "laws" / f"{self.target.name}_tilt.json"
        if file.exists():
            return tails.loads(file.read_text("utf-8"))
        fitted = fit()
        file.parent.mkdir(exist_ok=True)
        write_text(file, tails.dumps(fitted) + "\n")
        return fitted

    def _gain(self, frozen: Any) -> float:
        """Plain paths that are worth as much as one of a pilot, for the probability or the expected excess."""
        problem = self._problem()
        if isinstance(frozen, FittedBranching):
            pilot = frozen.run(problem, self.run.pilot, self.run.seed + 1)["probability"]
            p, error = pilot.estimate.value, pilot.estimate.std_error
            return p * (1.0 - p) / error**2 / pilot.paths if error > 0.0 else 0.0
        pilot = next(iter(frozen.sample(problem, self.run.pilot, self.run.seed, stream="worth")))
        x, w = np.asarray(pilot.outcome[frozen.target.outcome], float), np.exp(np.asarray(pilot.log_weight, float))
        f = np.maximum(x - frozen.hint.quantiles[0], 0.0)
        y = w * f
        return float(((w * f**2).mean() - y.mean() ** 2) / y.var()) if y.mean() > 0.0 else 0.0

    def _fit(self) -> Any:
        """The law for falling prices and that for rising ones, as a mixture with equal shares, and what their pilots said."""
        method = tails.CrossEntropy(pilot=self.run.pilot, settle=2, rounds=8, feedback=False, shocks=True)
        tilts, laws, tuning, reached, hint, checks = [], [], self.run.pilot, False, Hint(), []
        for side in ("fall", "rise"):
            problem, numbers, begin = self._problem(side), self._farthest(side), None
            if numbers.size:
                begin, replayed = method.begin(problem, noise_keys(self.run.seed, "market"), numbers)
                tuning += replayed
            if self._exhausts:
                if begin is None:
                    continue
                law, tilt, paths, clipped = tune(problem, 1.0, begin, self.run.seed, pilot=self.run.pilot)
                assert begin.shock is not None
                # the wide law that tuning began with bounds the weights of the narrow one
                laws += [law, begin.shock.law]
                tilts.append(tilt)
                checks.append(diagnostics.clipped(clipped))
            else:
                one = method.fit(problem, self.target.wanted, self.run.seed, begin)
                paths, hint, reached = one.tuning_paths, one.hint, reached or one.reached
                tilts += one.tilts
                checks += one.checks
            self.told.tell(f"{self.target.name}: law for a {side} of the price from {paths:,} pilot paths")
            tuning += paths
        if self._exhausts:
            return self._branching(tuple(laws), tuple(tilts), tuning, diagnostics.worst(checks))
        hint = dataclasses.replace(hint, quantiles=self._quantiles())
        period = method.period
        return Fitted(self.target.wanted, hint, tuning, reached, tuple(tilts), period, diagnostics.worst(checks))

    def _branching(
        self, laws: tuple[Law, ...], tilts: tuple[Tilt, ...], tuning: int, checks: tuple[Row, ...]
    ) -> FittedBranching:
        """Trial steps from the tuned laws and from the law itself, with levels that follow the use of the fund in plain paths."""
        levels, steepness = ladder(self._fund_use(), 1.0)
        return FittedBranching((*laws, itself(laws[0])), levels, steepness, tilts, tuning_paths=tuning, checks=checks)

    def _fund_use(self) -> np.ndarray:
        """Shares of the fund that plain paths used; zeros if there is none."""
        fund = float(self.system.cascade.waterfall.fund)
        return self.plain["fund_paid"].astype(float) / fund if fund > 0.0 else np.zeros(self.plain["fund_paid"].size)

    def _farthest(self, side: str) -> np.ndarray:
        """Plain paths with the largest bad debt on a side."""
        fell = self.plain["market_fall"] >= self.plain["market_rise"]
        debt = np.where(fell if side == "fall" else ~fell, self.plain["bad_debt"], 0.0)
        order = np.argsort(-debt, kind="stable")[:FARTHEST]
        return order[debt[order] > 0.0]

    def _quantiles(self) -> tuple[float, ...]:
        wanted = self.target.wanted
        if not isinstance(wanted, Tail):
            return ()
        return tuple(float(np.quantile(self.plain["bad_debt"].astype(float), level)) for level in wanted.levels)

    def _parts(self, law: Fitted, problem: AbstractProblem) -> Iterator[Chunk]:
        """Weighted paths, chunk by chunk: those of an earlier attempt first."""
        outcome, total, name = law.target.outcome, self.run.tail_paths, self.target.name
        kept = _done(self.folder, self.target)
        done = 0
        for number, file in enumerate(kept):
            part = _stored(file, outcome, number)
            done += part.law.size
            yield part
        for part in law.sample(problem, total, self.run.seed, begin=len(kept)):
            arrays = {outcome: part.outcome[outcome], "log_weight": part.log_weight, "law": part.law}
            write_arrays(_part(self.folder, self.target, part.number), arrays)
            done += part.law.size
            self.told.advance(name, min(done, total), total)
            yield part

    def _checked(self, answer: Answer) -> Answer:
        """The answer against estimates of another family, and against the plain paths that exhaust the fund."""
        results, check = dict(answer.results), {}
        for name, result in answer.results.items():
            if result.refused:
                continue
            rows = []
            if self._exhausts:
                hits, paths = self._plain_hits(), self.plain["bad_debt"].size
                rows.append(diagnostics.nominal_share(hits, paths, result.value))
            kind, other = self._other(name, answer.estimator)
            if other is None or not _confirms(other):
                rows.append(unconfirmed())
            else:
                result = tails.confirm(result, other)
                z = (result.estimate.value - other.value) / math.hypot(result.estimate.std_error, other.std_error)
                check[name] = {"estimator": kind, "value": other.value, "std_error": other.std_error, "z": z}
            diagnosis = Diagnosis(diagnostics.worst((*result.diagnosis.rows, *rows)))
            results[name] = dataclasses.replace(result, diagnosis=diagnosis)
        return answer._replace(results=results, check=check)

    def _other(self, metric: str, estimator: str) -> tuple[str, Result | None]:
        confidence = float(self.run.confidence)
        if self._plain_hits() >= HITS:
            debt, wanted = self.plain["bad_debt"].astype(float), self.target.wanted
            if isinstance(wanted, Tail):
                of = measures.expected_shortfall if "_es_" in metric else measures.quantile
                estimate = of(debt, wanted.levels[0], confidence)
            else:
                estimate = measures.probability(self.plain["fund_depleted"] > 0.0, confidence)
            return "monte_carlo", Result(estimate, Diagnosis(()))
        if self._exhausts and estimator == "tilt" and self.run.split_paths:
            return "splitting", self._by_splitting(self._frozen(self._fit))
        return "", None


def _confirms(other: Result) -> bool:
    """Whether an estimate of another family could have seen a part of the event that the first misses."""
    return not other.refused and 0.0 < other.std_error <= ROUGH * abs(other.value)


def _part(folder: Path, target: Target, number: int) -> Path:
    return folder / "parts" / f"{target.name}-{number:06d}.npz"


def _done(folder: Path, target: Target) -> list[Path]:
    """Parts that are there, up to the first that is not."""
    names = (_part(folder, target, number) for number in itertools.count())
    return list(itertools.takewhile(Path.exists, names))


def _stored(file: Path, outcome: str, number: int) -> Chunk:
    part = read_arrays(file, "delete it and resume the run")
    if part.keys() != {outcome, "log_weight", "law"} or len({value.shape for value in part.values()}) != 1:
        raise ConfigError(
            f"{file}: not a part of this run, expected {outcome} and weights of paths; delete it and resume"
        )
    return Chunk(number, {outcome: part[outcome]}, part["log_weight"], part["law"])


def _kept(folder: Path, target: Target) -> dict[str, np.ndarray]:
    parts = [read_arrays(file) for file in _done(folder, target)]
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else {})}


def entries(
    found: list[Answer], plain: dict[str, np.ndarray], confidence: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics in the place of those of plain paths, and what `summary.json` and `run.json` say of each target."""
    metrics, told = {}, {}
    for answer in found:
        for name, result in answer.results.items():
            metrics[name] = _entry(result, answer, plain, confidence)
        told[answer.target.name] = {
            "estimator": answer.estimator,
            "why": answer.why,
            "gain_per_path": answer.gain,
            "paths": next((r.paths for r in answer.results.values()), 0),
            "tuning_paths": next((r.tuning_paths for r in answer.results.values()), 0),
            "second_estimator": answer.check,
            "diagnostics": {
                name: {
                    row.name: {"value": row.value, "warn": row.warn, "refuse": row.refuse, "verdict": row.verdict}
                    for row in r.diagnosis.rows
                }
                for name, r in answer.results.items()
            },
        }
    return metrics, told


def _entry(result: Result, answer: Answer, plain: dict[str, np.ndarray], confidence: float) -> dict[str, Any]:
    """A metric of `summary.json`; one that is refused has no value, an upper bound where there is one, and the reason."""
    entry: dict[str, Any] = {"unit": answer.target.unit, "estimator": answer.estimator}
    if not result.refused:
        low, high = result.interval
        return {"value": result.value, "std_error": result.std_error, "ci95": [low, high]} | entry
    bound = None
    if isinstance(answer.target.wanted, Probability):
        hits = plain["fund_depleted"] > 0.0
        bound = one_sided(int(np.count_nonzero(hits)), hits.size, confidence)
    note = f"refused: {result.reason}" + (f"; below {bound:.2g} by plain paths" if bound is not None else "")
    return {"value": None, "std_error": None, "ci95": [None, None], "upper_bound": bound, "note": note} | entry


def tail_law(
    run: Any, system: VenueSystem, plain: dict[str, np.ndarray], folder: Path
) -> tuple[Fitted, AbstractProblem]:
    """The law of a run for its last tail level, frozen in the folder, and the problem whose paths it draws."""
    target = [target for target in targets(run) if isinstance(target.wanted, Tail)][-1]
    work = _Work(run, system, plain, folder, Told(), target)
    return work._frozen(work._fit), work._problem()
