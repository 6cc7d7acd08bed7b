"""A derivative is right or is refused: what comparisons that decide an event do to tangents, alone and in the engine."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import UNITS, covering, named, scenario

from tailrisk import impact
from tailrisk._hard import HardThresholdGradientError, crosses, decisive, indicator, live, symbolic_jvp
from tailrisk._rare import rare
from tailrisk._streams import noise, noise_keys
from tailrisk.gradients.pathwise import outcomes, reach
from tailrisk.gradients.sampling import Sampling
from tailrisk.gradients.steps import Number
from tailrisk.leaves import current, find, numbers, with_parameters
from tailrisk.simulate import rollout, simulate

ONE, TWO = jnp.asarray(1.0), jnp.asarray(2.0)


def step_up(value, level):
    return jnp.where(crosses(value, level, "a test"), 2.0 * value, value)


def scanned(value, level):
    return jax.lax.scan(lambda c, _: (step_up(c, level), None), value, None, length=3)[0]


def looped(value, level):
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, step_up(c[1], level)), (0, value))[1]


def chosen(value, level):
    return jax.lax.cond(value > 0.0, step_up, lambda value, _: value, value, level)


def packed(value, level):
    return rare(value > 0.0, lambda level, value: step_up(value, level), level, value)


def jvp(function):
    return lambda *at: jax.jvp(function, at, tuple(map(jnp.ones_like, at)))


DERIVATIVES = {
    "jvp": jvp,
    "grad": jax.grad,
    "jit of grad": lambda f: jax.jit(jax.grad(f)),
    "grad of jit": lambda f: jax.grad(jax.jit(f)),
    "vmap of grad": lambda f: lambda *at: jax.vmap(jax.grad(f))(*(jnp.stack([x, x]) for x in at)),
    "jvp of vmap": lambda f: lambda *at: jvp(lambda *x: jnp.sum(jax.vmap(f)(*x)))(*(jnp.stack([x, x]) for x in at)),
    "linearize": lambda f: lambda *at: jax.linearize(f, *at)[1](*at),
}
PLACES = {"plain": step_up, "scan": scanned, "while": looped, "cond": chosen, "rare": packed}


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("place", PLACES)
def test_a_tangent_on_either_side_raises(place, derivative):
    function = PLACES[place]
    for one_side in (lambda x: function(x, TWO), lambda x: function(ONE, x)):
        with pytest.raises(HardThresholdGradientError, match=r"a test.*common random numbers.*stop_gradient"):
            DERIVATIVES[derivative](one_side)(ONE)


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("place", PLACES)
def test_numbers_that_decide_nothing_pass(place, derivative):
    """The comparison is the plain one, and detached operands leave the derivative at fixed events."""
    function = PLACES[place]
    assert float(function(ONE, TWO)) == 2.0
    found = DERIVATIVES[derivative](lambda factor: factor * function(ONE, TWO))(3.0 * ONE)
    expected = {"jvp of vmap": 4.0, "linearize": 6.0}.get(derivative, 2.0)  # the sum of two, along 3, of one
    np.testing.assert_array_equal(np.asarray(jax.tree.leaves(found)[-1]), expected)
    detached = jax.grad(lambda x: x * jnp.where(crosses(jax.lax.stop_gradient(x), TWO, "a test"), 5.0, 1.0))
    assert float(detached(ONE)) == 5.0


def test_whole_numbers_and_host_arrays_are_left_alone():
    assert crosses(jnp.asarray([1, 3]), 2, "a test").tolist() == [True, False]
    table = np.arange(3.0)
    assert decisive(table, "a test") is table
    assert crosses(jnp.asarray(jnp.nan), 0.0, "a test").tolist() is False


def test_an_indicator_has_no_derivative_and_says_so():
    """nan in forward and reverse mode, and only if what decided it moves; its neighbors keep their derivative."""

    def both(x, y):
        return 3.0 * x, indicator(jnp.where(x > 1.0, 1.0, 0.0), (x, None)), 2.0 * y

    assert [float(value) for value in both(TWO, ONE)] == [6.0, 1.0, 2.0]
    one_by_one = [jax.grad(lambda x, which=which: both(x, ONE)[which])(TWO) for which in range(3)]
    for three, unknown, zero in (jax.jacfwd(both)(TWO, ONE), one_by_one):
        assert (float(three), float(zero)) == (3.0, 0.0)
        assert np.isnan(unknown)
    along_other = jax.jvp(lambda y: both(TWO, y), (ONE,), (ONE,))[1]
    assert [float(value) for value in along_other] == [0.0, 0.0, 2.0]


def test_rare_work_keeps_symbolic_zeros():
    """A tangent on what the update scales does not reach what it compares, on one path and on many."""

    def path(gain, start):
        def update(gain, state):
            place, money = state
            return place + 1.0, money + jnp.where(crosses(place, 1.5, "a test"), gain * money, 0.0)

        def step(state, _):
            return rare(state[0] < 2.5, update, gain, state), None

        return jax.lax.scan(step, (start, jnp.ones_like(start)), None, length=4)[0][1]

    starts = jnp.linspace(-1.0, 4.0, 70)
    gain, ones = jnp.asarray(0.5), jnp.ones_like(starts)
    many = lambda gain: jax.vmap(path, (None, 0))(gain, starts)  # noqa: E731
    each = jax.vmap(lambda start: jax.jvp(lambda gain: path(gain, start), (gain,), (jnp.ones_like(gain),))[1])
    hits = np.clip(np.ceil(1.5 - np.asarray(starts)), 0, 3)  # steps that begin below 1.5
    np.testing.assert_allclose(many(gain), 1.5**hits, rtol=1e-14)
    np.testing.assert_allclose(jax.jvp(many, (gain,), (jnp.ones_like(gain),))[1], hits * 1.5 ** (hits - 1), rtol=1e-14)
    np.testing.assert_allclose(each(starts), hits * 1.5 ** (hits - 1), rtol=1e-14)
    with pytest.raises(HardThresholdGradientError):
        jax.jvp(lambda starts: jax.vmap(path, (None, 0))(gain, starts), (starts,), (ones,))


# --- the engine ------------------------------------------------------------------------------------------------------

OUTCOMES = ("bad_debt", "forced_notional", "fund_paid", "fund_depleted", "halted_time")
PATHS = 32
WIDE = 0.04  # of a number: moves enough of the paths across a threshold, were there one
GENTLE = {"kernel": "smooth", "market": "merton", "depth": "evaporating", "impact": "linear"}


class Row:
    """Mean outcomes of a scenario as a function of the floating leaves of its system, on common noise."""

    def __init__(self, names: dict[str, str], **parts: Any):
        self.system = scenario(names, **parts).build(np.float64)
        found, self.tree = jax.tree_util.tree_flatten_with_path(self.system)
        self.leaves = [leaf for _, leaf in found]
        floating = [i for i, leaf in enumerate(self.leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        self.floating = {jax.tree_util.keystr(found[i][0]).lstrip(".").removeprefix("cascade."): i for i in floating}
        keys = noise_keys(0, "market")

        def path(leaves: Any, number: Any) -> list[Any]:
            system = jax.tree.unflatten(self.tree, leaves)
            state, _ = rollout(system, lambda step: noise(keys, number, step, system.draws, system.dtype))
            outcome = system.outcome(state)
            return [outcome[name] for name in OUTCOMES]

        self.path = jax.jit(path)  # traced once for all leaves

    def changed(self, changes: dict[int, Any]) -> list[Any]:
        return [changes.get(i, leaf) for i, leaf in enumerate(self.leaves)]

    def reached(self, which: int) -> list[bool]:
        """Which outcomes a tangent of a leaf reaches; raises if it is refused. Compiles nothing."""
        reached: list[bool] = []

        def trace(leaf: Any) -> Any:
            along = lambda leaf: self.path(self.changed({which: leaf}), jnp.uint32(0))  # noqa: E731
            values, changes = symbolic_jvp(along, (leaf,), (leaf,))
            reached.extend(bool(live(change)) for change in changes)
            return values

        jax.eval_shape(trace, self.leaves[which])
        return reached

    def slopes(self, moving: list[int]) -> Any:
        """The program of mean outcomes and their derivative along given directions of some leaves."""

        def means(values: Any, leaves: Any) -> Any:
            now = [values[moving.index(i)] if i in moving else leaf for i, leaf in enumerate(leaves)]
            paths = jax.vmap(lambda number: jnp.stack(self.path(now, number)))
            return jnp.mean(paths(jnp.arange(PATHS, dtype=jnp.uint32)), axis=0)

        @jax.jit
        def run(leaves: Any, directions: Any) -> Any:
            values = [leaves[i] for i in moving]
            if not moving:
                return (means(values, leaves),) * 2
            return jax.jvp(lambda values: means(values, leaves), (values,), (directions,))

        return run


def gentle() -> Row:
    """A smooth ladder whose sales never breed more sales than they are: its outcomes are not steep anywhere."""
    depth = impact.EvaporatingDepth(10.0 * UNITS, sensitivity=0.3, reference=9.6, memory="5min", recovery="10min")
    return Row(named(**GENTLE), impact=impact.Linear(depth, 0.05, memory="20min"))


def direction_of(leaf: Any) -> Any:
    """A change of all entries in proportion, or of zeros by one in a hundred."""
    value = np.where(np.isfinite(leaf), leaf, 0.0)
    return value if value.any() else np.where(np.isfinite(leaf), 0.01, 0.0)


def check_leaves(row: Row, wide: Any = (), only: Any = None, nodes: int = 128) -> tuple[int, int]:
    """Every leaf is refused, or its derivative is that of differences; for the leaves in `wide` it integrates as well.

    Returns how many were refused and how many have a derivative. A number without a derivative moves nothing at all,
    and one that has some loses no jump: over a wide step its derivative adds up to the whole change.
    """
    accepted: dict[str, list[bool]] = {}
    for name in row.floating if only is None else only:
        with contextlib.suppress(HardThresholdGradientError):
            accepted[name] = row.reached(row.floating[name])
    moving = [row.floating[name] for name, hits in accepted.items() if any(hits)]
    run = row.slopes(moving)
    still = [np.zeros_like(row.leaves[i]) for i in moving]
    failures = []
    for name, hits in accepted.items():
        which = row.floating[name]
        leaf, along = np.asarray(row.leaves[which]), direction_of(row.leaves[which])
        directions = [along if i == which else none for i, none in zip(moving, still, strict=True)]

        def at(
            by: float, directions: Any = directions, leaf: Any = leaf, along: Any = along, which: int = which
        ) -> Any:
            return [np.asarray(x) for x in run(row.changed({which: leaf + by * along}), directions)]

        value, slope = at(0.0)
        change = at(WIDE)[0] - value
        near = [(at(h)[0] - at(-h)[0]) / (2.0 * h) for h in (1e-6, 1e-4)]  # one of the two may meet a kink
        inside = [at(WIDE * (k + 0.5) / nodes)[1] for k in range(nodes)] if name in wide else []
        for o, outcome in enumerate(OUTCOMES):
            if not hits[o]:
                right = change[o] == 0.0 and all(difference[o] == 0.0 for difference in near)
            elif outcome == "fund_depleted":
                right = bool(np.isnan(slope[o]))
            else:
                rounding = 1e-9 * abs(value[o])
                right = min(abs(slope[o] - difference[o]) for difference in near) <= 1e-4 * abs(slope[o]) + rounding
                if inside:
                    added, size = (WIDE * np.mean([f(middle[o]) for middle in inside]) for f in (float, abs))
                    right = right and abs(added - change[o]) <= 0.02 * size + rounding
            if not right:
                failures.append((name, outcome, slope[o], [difference[o] for difference in near], change[o]))
    assert not failures, "\n".join(map(str, failures))
    return len(row.floating if only is None else only) - len(accepted), len(moving)


TRIP, BREACH = "level of a circuit breaker", "maintenance margin of a position"
LADDER = {"depth": "evaporating", "impact": "linear"}
ENGINE = {  # scenario: {leaf: what its derivative is refused for, or None}
    "sorted": (
        named(**LADDER),
        {
            "positions.level": BREACH,
            "positions.sums.table": BREACH,
            "impact.coefficient": BREACH,
            "impact.depth.volume": BREACH,
            "market.volatility": BREACH,
            "positions.fee": None,
            "waterfall.fund": None,
        },
    ),
    "sorted, exact, breaker": (
        named(kernel="sorted, exact", breaker="halt", market="kou", oracle="deviation", **LADDER),
        {
            "breaker.threshold": TRIP,
            "breaker.length": "time of a breaker",
            "impact.coefficient": "deviation at which an oracle posts",
            "oracle.threshold": "deviation at which an oracle posts",
            "oracle.heartbeat": "heartbeat of an oracle",
            "market.jumps.rate": "arrival of a jump",
            "market.jumps.up": "direction of a jump",
            "market.crash_size": "jump that counts as a crash",
            "waterfall.fund": None,
        },
    ),
    "accounts": (
        named(
            kernel="accounts with calls", liquidation="schedule", market="regime switching", margin="volatility scaled"
        ),
        {
            "positions.margin.base.maintenance_rate": BREACH,
            "positions.margin.base.initial_rate": "below which an owner is called",
            "positions.start": BREACH,
            "positions.call.calm": "margin call that is met",
            "positions.call.grace": "margin call that is met",
            "positions.liquidation.wait": "wait before the rest",
            "positions.liquidation.size_limit": "closed in parts",
            "positions.liquidation.backstop_level": "backstop takes over",
            "margin.half_life": BREACH,
            "impact.prefactor": BREACH,
            "market.volatility": BREACH,
            "market.enter": "switch of a regime",
            "waterfall.backstop.interval": "schedule of the backstop",
            "waterfall.backstop.cutoff": "backstop sells the rest",
        },
    ),
    "smooth, breaker": (
        named(kernel="smooth", breaker="luld tier 1", market="block bootstrap", **LADDER),
        {
            "positions.rates": "volume that a breaker lets through",
            "breaker.width": TRIP,
            "impact.coefficient": TRIP,
            "market.block": "start of a block",
            "positions.fee": None,
        },
    ),
    "smooth": (
        named(kernel="smooth", waterfall="backstop", **LADDER),
        {
            "positions.rates": None,
            "positions.units": None,
            "impact.coefficient": None,
            "impact.depth.volume": None,
            "market.volatility": None,
            "market.drift": None,
            "waterfall.fund": None,
        },
    ),
}


@pytest.mark.parametrize("name", ENGINE)
def test_the_engine_refuses_what_decides_an_event(name):
    names, leaves = ENGINE[name]
    row = Row(names)
    for leaf, what in leaves.items():
        if what is None:
            assert any(row.reached(row.floating[leaf])), leaf
        else:
            with pytest.raises(HardThresholdGradientError, match=what):
                row.reached(row.floating[leaf])


FEW = ("market.volatility", "positions.rates", "positions.fee", "impact.coefficient", "waterfall.fund", "margin.floors")


def test_the_smooth_ladder_has_its_derivatives():
    """Also a wide step is the integral of the derivative, so no event was lost on the way."""
    assert check_leaves(gentle(), wide=FEW, only=FEW) == (0, len(FEW) - 1)  # the tables have the margin schedule


@pytest.mark.slow
def test_a_sorted_ladder_has_those_that_move_no_threshold():
    row = Row(named(**LADDER))
    refused, moving = check_leaves(row, wide=row.floating)
    assert refused > moving >= 5


@pytest.mark.slow
def test_every_derivative_of_the_smooth_ladder():
    row = gentle()
    # what the fund of a few paths pays has kinks: the sum of slopes misses the change by 6 %, 1.2 % and 0.2 % of it with
    # 128, 512 and 2,048 nodes where it is worst
    refused, moving = check_leaves(row, wide=row.floating, nodes=512)
    assert refused == 5  # jumps: their rate, deviation and mean, the size of a crash, and the length of a step
    assert moving >= 20


@pytest.mark.slow
@pytest.mark.parametrize("names", covering(), ids=lambda names: "-".join(names.values()).replace(" ", "_"))
def test_every_leaf_is_right_or_refused(names):
    row = Row(names)
    steep = names["kernel"] == "smooth"  # sales breed more than themselves: no sum of slopes is fine enough there
    refused, _ = check_leaves(row, wide=() if steep else row.floating)
    assert refused >= 1


# --- numbers of a scenario, through the book and its tables ---------------------------------------------------------------

EVERY = [*covering(), named(market="block bootstrap, 2 assets"), named(kernel="smooth", **LADDER)]


@pytest.mark.slow
@pytest.mark.parametrize("names", EVERY, ids=lambda names: "-".join(names.values()).replace(" ", "_"))
def test_every_number_of_a_scenario_is_right_or_refused(names):
    """Pathwise, as an estimate would take it, against differences of scenarios built anew at both ends."""
    made = scenario(names)
    sampling = Sampling(made, PATHS, PATHS, dtype=np.dtype("float64"))
    values = {key: current(made, key) for key in numbers(made) if key not in ("step", "horizon")}
    passing = [key for key in values if reach(sampling, Number(key, find(made, key), values[key])).passes]
    assert passing
    assert len(passing) < len(values)
    along = {key: direction_of(values[key]) for key in passing}

    @jax.jit
    def run(changes: Any) -> Any:
        def means(by: Any) -> Any:
            found = outcomes(sampling, made, {key: values[key] + by[key] for key in passing}, PATHS)
            return jnp.stack([jnp.mean(found[name]) for name in OUTCOMES])

        return jax.jvp(means, ({key: jnp.zeros_like(jnp.asarray(values[key])) for key in passing},), (changes,))

    def at(key: str, by: float) -> np.ndarray:
        system = with_parameters(made, {key: values[key] + by * along[key]}).assemble(np.float64)  # bounds unchecked
        found = simulate(system, paths=PATHS, chunk=PATHS)
        return np.array([found[name].mean() for name in OUTCOMES])

    still = {key: np.zeros_like(along[key]) for key in passing}
    failures = []
    for key in passing:
        value, slope = (np.asarray(x) for x in run(still | {key: along[key]}))
        near = [(at(key, h) - at(key, -h)) / (2.0 * h) for h in (1e-6, 1e-4)]  # one of the two may meet a kink
        wide = at(key, 0.5 * WIDE) - at(key, -0.5 * WIDE)
        for o, outcome in enumerate(OUTCOMES):
            if outcome == "fund_depleted":
                right = bool(np.isnan(slope[o])) or all(part[o] == 0.0 for part in (*near, wide))
            else:
                rounding = 1e-9 * abs(value[o])
                right = min(abs(slope[o] - part[o]) for part in near) <= 1e-4 * abs(slope[o]) + rounding
                right = right and (slope[o] != 0.0 or abs(wide[o]) <= rounding)
            if not right:
                failures.append((key, outcome, slope[o], [part[o] for part in near], wide[o]))
    assert not failures, "\n".join(map(str, failures))
