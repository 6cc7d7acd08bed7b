"""Lobes: laws of all normals of a path, fitted where an event lies, and what they say of limit states with known tails."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tail_problems import LIMIT_STATES, GaussianWalk, JumpCascade, Ruin, Static

from tailrisk import _streams, tails
from tailrisk._fields import InputError
from tailrisk._streams import Noise
from tailrisk.tails import LobeMixture, Mean, Plain, Probability, Tail, Whole
from tailrisk.tails.lobe_fit import Sample, fitted, joined, one, slope_direction, slotted
from tailrisk.tails.lobe_search import GROUPS, OTHERS, on_device
from tailrisk.tails.lobes import log_density
from tailrisk.tails.tail_index import khat

STATES = LIMIT_STATES | {"linear in 1000": (1_000, lambda z: 5.0 - jnp.sum(z) * 1_000**-0.5, stats.norm.sf(5.0))}
BUDGET = 20_000  # evaluations, tuning among them


def within_budget(problem, target, seed, budget=BUDGET):
    """The fitted law and the results of a run with all evaluations that tuning has left."""
    fit = tails.fit(problem, target, LobeMixture(), seed)
    paths = (budget - fit.tuning_paths) // (64 * GROUPS) * 64 * GROUPS
    found = tails.run(problem, fit, paths, seed)
    assert all(result.paths + result.tuning_paths <= budget for result in found.values())
    return fit, found


def agrees(result, truth):
    """Within 3 standard errors and 3 %, with an error that makes the latter no accident."""
    assert not result.refused, result.reason
    assert result.std_error < 0.015 * truth
    assert abs(result.value - truth) < min(3.0 * result.std_error, 0.03 * truth), (
        result.value,
        truth,
        result.std_error,
    )


@pytest.fixture(scope="module")
def sample():
    """Points beyond a curved edge, 3 out along the first axis, with a quarter of them on the other side."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((400, 3))
    z[:, 0] = 3.0 + rng.exponential(0.3, 400) + 0.2 * z[:, 1] ** 2
    z[::4, 0] *= -1.0
    return Sample(z, np.full(400, 1.0 / 400))


@pytest.fixture(scope="module")
def lobes(sample):
    return slotted(fitted(sample, OTHERS, [], np.random.default_rng(1)), GROUPS - 2, GROUPS)


def test_lobes_find_both_sides(lobes):
    found, slots = lobes
    assert found.share.sum() == pytest.approx(13 / 15)
    assert slots.sum() == 13
    mass = [found.share[side * found.toward[:, 0] > 0.9].sum() / found.share.sum() for side in (1.0, -1.0)]
    assert mass[0] == pytest.approx(0.75, abs=0.1)
    assert mass[1] == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_draws_of_a_mixture_have_its_density(lobes, dtype):
    """With exact shares of all laws, means of w f(z) are those of the law itself, and densities are those of the host."""
    found, slots = lobes
    groups = np.array([0, 1, *(2 + np.repeat(np.arange(slots.size), slots))])
    rng, z, log_weight = np.random.default_rng(2), [], []

    @jax.jit
    def draw(law, normal):
        def one_path(normal):
            noise, log_ratio, _ = law.draw(None, None, Noise(normal, jnp.zeros(0, dtype)))
            return noise.normal, log_ratio

        return jax.vmap(one_path)(normal)

    for law in groups:
        drawn = draw(
            on_device(found, OTHERS, int(law), dtype), jnp.asarray(rng.standard_normal((8_192, 3)).astype(dtype))
        )
        z.append(np.asarray(drawn[0], float))
        log_weight.append(np.asarray(drawn[1], float))
    z, log_weight = np.concatenate(z), np.concatenate(log_weight)
    np.testing.assert_allclose(-log_density(found, OTHERS, z), log_weight, atol=1e-9 if dtype == np.float64 else 2e-4)
    assert log_weight.max() <= math.log(GROUPS) + 1e-6
    w = np.exp(log_weight)
    tests = [(w, 1.0), (w * z[:, 0], 0.0), (w * z[:, 1] ** 2, 1.0), (w * (z[:, 0] > 3.0), 1.3498980316301e-3)]
    tests.append((w * (z[:, 0] < -3.0) * (z[:, 2] > 0.0), 0.5 * 1.3498980316301e-3))
    for y, truth in tests:
        error = np.sqrt(np.mean(y.reshape(groups.size, -1).var(axis=1, ddof=1)) / y.size)
        assert error < 0.02 * max(truth, 0.5)
        assert abs(y.mean() - truth) < 4.0 * error


def test_few_points_find_a_direction_in_many_dimensions():
    """A linear fit of all points is exact where the mean of those of the event is mostly noise."""
    rng = np.random.default_rng(3)
    z = rng.standard_normal((400, 200))
    x = z.sum(axis=1) * 200**-0.5
    event = Sample(z[x > 1.0], np.full((x > 1.0).sum(), 1.0 / (x > 1.0).sum()))
    mean = one(event).toward.sum() * 200**-0.5
    fit = slope_direction(z, x).sum() * 200**-0.5
    assert mean < 0.95
    assert fit == pytest.approx(1.0, abs=1e-6)
    assert slope_direction(z[:200], x[:200]) is None
    best = fitted(event, OTHERS, [slope_direction(z, x)], rng)
    assert best.toward[0].sum() * 200**-0.5 == pytest.approx(1.0, abs=1e-6)


def test_slots_are_whole_and_none_is_empty(sample):
    parts = [one(sample)] * 3
    found, slots = slotted(joined(parts, np.array([0.9, 0.099, 0.001]), 13 / 15), 13, 15)
    assert slots.tolist() == [11, 1, 1]
    np.testing.assert_allclose(found.share * 15, slots)


def test_several_branches_within_the_budget():
    """The four branches of a system, at 3 % of the truth with 20,000 evaluations in all; its text gives the same bits.

    The rounding of NumPy's BLAS, another on other processors, leads a search elsewhere: of 120 fits (60 seeds on two kernels) 5
    were refused for the tail of their weights.
    """
    inputs, limit, truth = LIMIT_STATES["four-branch"]
    problem, refused = Static(inputs, limit), 0
    for seed in (2, 3, 4):
        fit, found = within_budget(problem, Probability(0.0), seed)
        refused += found["probability"].refused
        if not found["probability"].refused:
            agrees(found["probability"], truth)
    assert refused <= 1
    again = tails.loads(tails.dumps(fit))
    assert tails.run(problem, again, found["probability"].paths, seed) == found


def test_a_few_steps_at_once():
    """A walk of four steps runs in one, from its own start to its end."""
    problem = GaussianWalk(steps=4)
    whole, normal = Whole(problem), np.array([0.5, -2.0, 3.0, 1.0])
    state, _ = whole.step(whole.init(), Noise(jnp.asarray(normal), jnp.zeros(0)))
    assert float(whole.outcome(state)["score"]) == pytest.approx(0.5 * np.cumsum(normal).max())
    assert whole.draws.normals == 4
    with pytest.raises(InputError, match="at most 4096 normals"):
        Whole(GaussianWalk(steps=5_000))
    with pytest.raises(InputError, match="draws no normals"):
        tails.fit(Ruin(steps=2), Probability(1.0), LobeMixture())
    with pytest.raises(InputError, match="multiple of 960"):
        LobeMixture(pilot=100)
    with pytest.raises(InputError, match="expected one of score"):
        tails.fit(problem, Probability(0.0, "fall"), LobeMixture())


def test_more_numbers_a_step_than_one_key_has():
    """The first numbers stay what they are, and none comes twice."""
    key = _streams.stream_key(1, "many")
    bits = jax.jit(_streams._words, static_argnums=3)  # one compilation is faster than so many operations
    many = np.asarray(bits(key, 3, 2, 600))
    assert np.array_equal(many[:, :256], np.asarray(bits(key, 3, 2, 256)))
    assert np.unique(many).size == many.size
    assert abs(np.mean(many / 2.0**32) - 0.5) < 4.0 / (12.0 * many.size) ** 0.5
    with pytest.raises(ValueError, match="at most 4096"):
        _streams.normals(key, 3, 2, 5_000, np.float64)


def test_contributions_that_are_nearly_equal_have_no_heavy_tail():
    """A thousand within a factor of two: no Pareto law of index 1/2 would stop so early, however odd their spacing is."""
    rng = np.random.default_rng(4)
    y = 1.0 + rng.random(1_000) ** 20
    assert khat(np.sort(y)[::-1], 10_000) <= 0.5
    heavy = np.sort(rng.random(10_000) ** -0.9)[::-1]
    assert khat(heavy, 10_000) > 0.7


slow = pytest.mark.slow


@slow
@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("mirrored", [False, True])
def test_static_limit_states_within_the_budget(name, mirrored):
    """Every limit state and its mirror image, with no settings of its own."""
    inputs, limit, truth = STATES[name]
    problem = Static(inputs, (lambda z: limit(-z)) if mirrored else limit)
    agrees(within_budget(problem, Probability(0.0), 7)[1]["probability"], truth)


@slow
@pytest.mark.parametrize("name", ["four-branch", "RP25", "linear in 2"])
def test_errors_of_small_runs(name):
    """Root mean square error of 20 runs of at most 12,000 evaluations below 5 %.

    One run may be refused: the checks refuse 0 to 0.9 % of the runs of the coverage suite, so two of 20 would be rare.
    """
    inputs, limit, truth = LIMIT_STATES[name]
    found = [
        within_budget(Static(inputs, limit), Probability(0.0), seed, 12_000)[1]["probability"] for seed in range(20)
    ]
    errors = [one.value / truth - 1.0 for one in found if not one.refused]
    assert len(errors) >= 19
    assert np.sqrt(np.mean(np.square(errors))) < 0.05


@slow
def test_lobes_for_means_and_tails():
    """A mean and quantiles of a walk of four steps against plain paths of it."""
    problem = GaussianWalk(steps=4)
    plain = tails.run(problem, tails.fit(problem, Tail((0.99, 0.999), "score"), Plain()), 400_000, 1)
    found = within_budget(problem, Tail((0.99, 0.999), "score"), 1)[1]
    for name, result in found.items():
        assert result.std_error < 0.01 * result.value
        assert abs(result.value - plain[name].value) < 4.0 * math.hypot(result.std_error, plain[name].std_error)
    cascade = JumpCascade(steps=4, rate=0.0, volatility=0.12)
    loss = within_budget(cascade, Mean("loss"), 1)[1]["mean"]
    other = tails.run(cascade, tails.fit(cascade, Mean("loss"), Plain()), 400_000, 1)["mean"]
    assert loss.paths * loss.std_error**2 < 0.1 * other.paths * other.std_error**2
    assert abs(loss.value - other.value) < 4.0 * math.hypot(loss.std_error, other.std_error)
