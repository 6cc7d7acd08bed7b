"""Estimators of rare events over systems whose tails are known exactly, with no settings for any of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tail_problems import GaussianWalk, JumpCascade, Ruin, agrees, gaussian_referee, jump_walk_referee

from tailrisk import tails
from tailrisk._fields import InputError
from tailrisk.simulate import simulate
from tailrisk.tails import Controlled, CrossEntropy, Mean, Plain, Probability, Splitting, Tail
from tailrisk.tails.branching import MANY, FittedBranching, ladder
from tailrisk.tails.control import FittedControlled
from tailrisk.tails.crossentropy import Round, _Search
from tailrisk.tails.diagnostics import RefusedEstimateError, high
from tailrisk.tails.direction import FittedDirection
from tailrisk.tails.rqmc import FittedRQMC, TiltedPoints
from tailrisk.tails.strata import FittedStrata
from tailrisk.tails.tilt import Law, itself

SMALL = CrossEntropy(pilot=5_000)  # as tuned as the fast tests can afford; the slow ones use the default


@pytest.fixture(scope="module")
def fitted():
    """A tilt for the reference cascade without impact at 0.20."""
    return tails.fit(JumpCascade(impact=0.0), Probability(0.20), SMALL, seed=1)


def test_jump_walk_against_its_density(fitted):
    """The tilt finds normals, jump chances and jump sizes from the noise alone."""
    result = tails.run(JumpCascade(impact=0.0), fitted, 20_000, seed=2)["probability"]
    agrees(result, jump_walk_referee(0.20), 0.02)
    assert result.gain_over_plain() > 1e3
    assert result.diagnosis.warnings == ()
    assert result.tuning_paths <= 60_000


def test_checks_of_the_pilot(fitted):
    """A result of a tilt alone shows them; weights that are a fifth too large are refused where plain paths reach too."""
    result = tails.run(JumpCascade(impact=0.0), fitted, 2_000, seed=2)["probability"]
    rows = {row.name: row for row in result.diagnosis.rows}
    assert rows["clipped"].value < 0.05
    assert 0.0 < rows["ladder"].value < 4.0
    rng = np.random.default_rng(0)
    x = rng.normal(1.0, 1.0, 20_000)
    for wrong, verdict in ((1.0, "ok"), (1.2, "refuse")):
        search = _Search(SMALL, GaussianWalk(), Probability(4.0), 0, None)
        search.plain = [np.random.default_rng(k).normal(0.0, 1.0, 5_000) for k in range(3)]
        search.levels, search.clipped = [0.5, 1.5, 4.0], 0.2
        clipped, ladder = search.checks(Round(x, x, wrong * np.exp(0.5 - x), None))
        assert clipped.verdict == "warn"
        assert ladder.verdict == verdict


def test_a_pilot_that_refuses_is_heard(fitted):
    """What a fit said against its law reaches estimates that are made of it in other ways."""
    problem, bad = JumpCascade(impact=0.0), high("ladder", 9.0, (3.0, 4.0))
    law = FittedRQMC(TiltedPoints(dataclasses.replace(fitted, checks=(bad,))), 2, 0)
    result = law.run(problem, 256, 1)["probability"]
    assert bad in result.diagnosis.rows
    assert result.refused


@pytest.mark.slow
def test_a_pilot_that_refuses_is_heard_everywhere(fitted):
    """Strata, controls and directions likewise."""
    problem, bad = JumpCascade(impact=0.0), high("ladder", 9.0, (3.0, 4.0))
    target, refused = fitted.target, dataclasses.replace(fitted, checks=(bad,))
    strata = FittedStrata(target, 0, (dataclasses.replace(refused, tilts=()),), (0.88,), (1.0,), 0.12, 0)
    controlled = FittedControlled(target, refused, problem, 0.5, 1.0, 1.0, 0.0, 2.0, 0)
    direction = np.full((problem.steps, 1), problem.steps**-0.5)
    lines = FittedDirection(target, direction, 3.0, (), 10, 1, 2, 0, (bad,))
    stratum = (1.0 - 0.12 / 64) ** 64
    strata = dataclasses.replace(strata, masses=(stratum,), beyond=1.0 - stratum)
    for law in (strata, controlled, lines):
        assert bad in law.run(problem, 640, 1)["probability"].diagnosis.rows, law


def test_splitting_by_trial_steps(fitted):
    """Branches from trial steps give the exact chance, under the tilt and without one; a law comes back from its text."""
    problem, level = JumpCascade(impact=0.0), 0.20
    tilt = fitted.tilts[0]
    like = Law(*(x[:, 0] for x in (tilt.drift, tilt.factor, tilt.mean, tilt.deviation, tilt.size)))
    wide = itself(like)._replace(factor=like.factor * 0.0 + 20.0, deviation=like.deviation * 0.0 + 2.0)
    scores = simulate(problem, paths=8_192, seed=3)["score"]
    law = FittedBranching((wide, itself(like)), *ladder(scores, level), fitted.tilts)
    assert len(law.levels) > 1
    assert law.levels[-1] == level
    again = tails.loads(tails.dumps(law))
    assert tails.dumps(again) == tails.dumps(law)
    agrees(again.run(problem, 10_000, 4)["probability"], jump_walk_referee(level), 0.1)  # plain paths: 0.8
    plain = law.plain(*ladder(scores, level, MANY))
    agrees(plain.run(problem, 40_000, 5)["probability"], jump_walk_referee(level), 0.25)


def test_referee_against_printed_values():
    """Section 12 of the reference cases, to the digits printed."""
    assert jump_walk_referee(0.15) == pytest.approx(2.115792e-3, rel=1e-6)
    assert jump_walk_referee(0.20) == pytest.approx(1.491448e-4, rel=1e-6)
    assert gaussian_referee(4.0) == pytest.approx(3.93174e-5, rel=1e-5)


def test_paths_do_not_depend_on_chunks(fitted):
    """A path is the same for any chunk; so are shares of the laws, and with one chunk size every bit of the result."""
    problem, columns = JumpCascade(impact=0.0), []
    for chunk in (512, 1024):
        parts = list(fitted.sample(problem, 4_000, 3, chunk=chunk))
        columns.append([np.concatenate([getattr(p, name) for p in parts]) for name in ("log_weight", "law")])
        columns[-1].append(np.concatenate([p.outcome["score"] for p in parts]))
    for a, b in zip(*columns, strict=True):
        assert np.array_equal(a, b)
    log_weight, law, score = columns[0]
    assert law.size == 4_480
    assert np.count_nonzero(law == 0) == 448
    assert log_weight.max() <= np.log(10.0) + 1e-12  # one over the share of the law itself
    runs = [tails.run(problem, fitted, 4_000, 3, chunk=chunk)["probability"] for chunk in (512, 1024, 1024)]
    assert runs[1].estimate == runs[2].estimate
    assert runs[0].estimate.value == pytest.approx(runs[1].estimate.value, rel=1e-12)
    weighted = np.exp(log_weight) * (score >= 0.20)
    assert runs[1].estimate.value == pytest.approx(weighted.mean(), rel=1e-12)


def test_fitted_laws_are_text(fitted):
    """Every number of a fitted law survives, so a run from the text has the same bits."""
    problem, again = JumpCascade(impact=0.0), tails.loads(tails.dumps(fitted))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), fitted, again))
    assert tails.run(problem, again, 1_000, 3) == tails.run(problem, fitted, 1_000, 3)
    split = tails.splitting.FittedSplitting(Probability(1.0), (0.3, 1.0), 16, 100)
    assert tails.loads(tails.dumps(split)) == split
    with pytest.raises(InputError, match="not a fitted law"):
        tails.loads('{"kind": "Guess"}')


def test_second_family_agrees(fitted):
    """Splitting changes no law, so agreement with the tilt checks both; a wrong estimate is refused by the comparison."""
    problem = JumpCascade(impact=0.0)
    split = tails.fit(problem, Probability(0.20), Splitting(pilot=1_000), seed=1)
    other = tails.run(problem, split, 60_000, seed=5)["probability"]
    agrees(other, jump_walk_referee(0.20), 0.25)
    result = tails.run(problem, fitted, 20_000, seed=2)["probability"]
    confirmed = tails.confirm(result, other)
    assert confirmed.diagnosis.rows[-1].name == "second_estimator"
    assert not confirmed.refused
    wrong = dataclasses.replace(other, estimate=other.estimate._replace(value=2.5 * other.value))
    assert tails.confirm(result, wrong).refused


def test_unreachable_and_certain_events(fitted):
    """No path near the event: no value, only a bound that plain paths give; a certain event has probability one."""
    problem = JumpCascade(impact=0.0)
    far = dataclasses.replace(fitted, target=Probability(50.0))
    result = tails.run(problem, far, 4_000, seed=2)["probability"]
    assert result.refused
    with pytest.raises(RefusedEstimateError, match="effective_hits"):
        _ = result.value
    assert result.upper_bound == pytest.approx(3.0 / 448, rel=0.01)
    certain = tails.run(problem, tails.fit(problem, Probability(-1.0), Plain()), 1_000, seed=2)["probability"]
    assert certain.value == 1.0
    with pytest.raises(InputError, match="expected one of loss, score"):
        tails.fit(problem, Probability(0.0, "fall"), SMALL)


def test_sizes_are_tilted_by_powers():
    """A tilt of exponential sizes has weights of mean one and the mean of plain paths, at a smaller error."""
    problem, target = Ruin(steps=16), Probability(10.0)
    fit = tails.fit(problem, target, CrossEntropy(pilot=2_000), seed=1)
    claims, waits = np.asarray(fit.tilts[0].size)[:, 2:4]
    assert np.all(claims > 1.2)  # larger claims
    assert np.all(waits < 0.95)  # that come sooner
    tilted = tails.run(problem, fit, 6_400, seed=2)["probability"]
    plain = tails.run(problem, tails.fit(problem, target, Plain()), 100_000, seed=3)["probability"]
    assert tilted.std_error < 0.05 * tilted.value
    assert abs(tilted.value - plain.value) < 4.0 * np.hypot(tilted.std_error, plain.std_error)
    (row,) = [row for row in tilted.diagnosis.rows if row.name == "mean_weight"]
    assert row.value < 4.0


def test_antithetic_pairs_help_where_outcomes_are_monotone():
    problem = GaussianWalk(steps=4)
    plain = tails.run(problem, tails.fit(problem, Mean("score"), Plain()), 4_096, seed=3)["mean"]
    pairs = tails.run(problem, tails.fit(problem, Mean("score"), tails.Antithetic()), 4_096, seed=3)["mean"]
    assert pairs.std_error < 0.9 * plain.std_error
    assert pairs.paths == plain.paths  # of both in a pair
    assert abs(pairs.value - plain.value) < 4.0 * np.hypot(pairs.std_error, plain.std_error)
    with pytest.raises(InputError, match="use Plain"):
        tails.fit(problem, Tail((0.9,), "score"), tails.Antithetic())


def test_cheap_system_as_control():
    """32 accounts with the continuum beside them: the same answer as the tilt of the accounts alone, at less error."""
    full, cheap, target = JumpCascade(accounts=32), JumpCascade(), Probability(0.30)
    fit = tails.fit(full, target, Controlled(cheap, cost=1 / 32, method=SMALL, pairs=3_000), seed=1)
    assert 0.7 < fit.beta < 1.1
    assert fit.worst_gain > 2.0  # counted in accounts x steps
    result = tails.run(full, fit, 3_000, seed=2)["probability"]
    assert not result.refused, result.reason
    tilted = tails.run(full, fit.tilt, 6_400, seed=3)["probability"]
    assert abs(result.value - tilted.value) < 3.5 * np.hypot(result.std_error, tilted.std_error)
    assert result.gain_over_plain() > 2.0 * tilted.gain_over_plain()
    with pytest.raises(InputError, match="same noise"):
        tails.fit(JumpCascade(accounts=4, steps=32), target, Controlled(cheap, cost=0.1, method=SMALL))
