"""Another law of the noise with weights: means stay, whatever the system, the precision, the chunk or the parameter."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import one_account as one
import pytest
from catalogue import MARKETS, TWO_ASSET_MARKETS

import tailrisk as tr
from tailrisk import market
from tailrisk._fields import InputError, cast
from tailrisk._hard import HardThresholdGradientError
from tailrisk._streams import Draws, noise, noise_keys
from tailrisk.gradients.sampling import Sampling
from tailrisk.simulate import AbstractSystem, rollout, simulate
from tailrisk.tails import AbstractProposal, Frozen, JumpTilt, Tilted

STEP = "1min"
STEPS, PATHS = 24, 8_192
RARE = {"merton": 2e3, "hawkes": 600.0, "kou": 2e3, "regime switching": 2e3, "merton, 2 assets": 2e3}  # jumps a year
LAWS = [name if name == "hawkes" else pytest.param(name, marks=pytest.mark.slow) for name in RARE]


class Walk(AbstractSystem):
    """The log price of a market law alone."""

    law: Any
    dt: Any
    steps: int = eqx.field(static=True, default=STEPS)
    dtype: Any = eqx.field(static=True, default=np.dtype("float64"))

    @property
    def draws(self) -> Draws:
        return self.law.draws

    def init(self) -> Any:
        return self.law.init(self.dtype), jnp.zeros((), self.dtype)

    def step(self, state: Any, noise: Any) -> Any:
        shock, inner = self.law.move(state[0], noise, self.dt)
        return (inner, state[1] + shock.log_return[0]), None

    def outcome(self, state: Any) -> Any:
        return {"end": state[1], "fall": jnp.where(state[1] < -0.06, 1.0, 0.0)}


def law(name):
    made = (MARKETS | TWO_ASSET_MARKETS)[name]()
    calm = 3.0 * np.ones_like(made.volatility)
    return eqx.tree_at(lambda m: (m.jumps.rate, m.volatility), made, (np.asarray(RARE[name]), calm))


def walk(name, dtype=np.float64):
    return cast(Walk(law(name), np.asarray(60.0 / (365 * 86400)), dtype=np.dtype(dtype)), dtype)


def tilt(name, factor, dtype=np.float64):
    return cast(JumpTilt(law(name), STEP, factor), dtype)


def weighted(found, name):
    """Mean of an outcome under the original law, with its standard error."""
    values = found["weight"] * found[name]
    return values.mean(), values.std() / values.size**0.5


@pytest.mark.parametrize("name", LAWS)
def test_means_are_those_of_the_original_law(name):
    """Also where the chance of a jump moves along the path; and jumps do come more often."""
    plain = simulate(walk(name), paths=8 * PATHS, seed=1, chunk=PATHS)
    system = Tilted(walk(name), tilt(name, 4.0))
    found = simulate(system, paths=8 * PATHS, seed=2, chunk=PATHS)
    weight, error = found["weight"].mean(), found["weight"].std() / (8 * PATHS) ** 0.5
    assert error < 0.01
    assert abs(weight - 1.0) < 4.0 * error
    np.testing.assert_allclose(np.exp(found["log_weight"]), found["weight"], rtol=1e-12)
    for outcome in ("end", "fall"):
        value, spread = weighted(found, outcome)
        other, other_spread = plain[outcome].mean(), plain[outcome].std() / (8 * PATHS) ** 0.5
        assert abs(value - other) < 4.0 * np.hypot(spread, other_spread)
    if name in ("merton", "kou"):  # what it is for
        assert found["fall"].mean() > 2.0 * plain["fall"].mean()
        assert weighted(found, "fall")[1] < 0.7 * plain["fall"].std() / (8 * PATHS) ** 0.5


def test_chunks_are_invisible():
    system = Tilted(walk("hawkes", np.float32), tilt("hawkes", 4.0, np.float32))
    one_chunk, many = (simulate(system, paths=1_024, chunk=chunk) for chunk in (1_024, 192))
    for name in one_chunk:
        np.testing.assert_array_equal(one_chunk[name], many[name])
    assert one_chunk["weight"].dtype == np.float32
    assert len(np.unique(one_chunk["weight"])) > 20


@pytest.mark.slow
def test_precisions_agree():
    single, double = (
        simulate(Tilted(walk("hawkes", dtype), tilt("hawkes", 4.0, dtype)), paths=4_096)["weight"]
        for dtype in (np.float32, np.float64)
    )
    same = np.isclose(single, double, rtol=1e-4)
    assert same.mean() > 0.995  # a uniform within rounding of the chance is another jump


def test_no_tilt_is_no_change():
    plain, same = (simulate(s, paths=512) for s in (walk("merton"), Tilted(walk("merton"), tilt("merton", 1.0))))
    np.testing.assert_array_equal(same["weight"], 1.0)
    np.testing.assert_allclose(same["end"], plain["end"], rtol=1e-9)


def test_laws_without_jumps_are_refused():
    with pytest.raises(InputError, match="GeometricBrownian has no jumps to tilt"):
        JumpTilt(market.GeometricBrownian(1.0), STEP, 2.0)


def test_a_proposal_must_not_depend_on_a_parameter():
    keys = noise_keys(0, "market")

    def weight(rate):
        moved = eqx.tree_at(lambda p: p.law.jumps.rate, tilt("merton", 4.0), rate)
        system = Tilted(walk("merton"), moved)
        state, _ = rollout(system, lambda step: noise(keys, jnp.uint32(0), step, system.draws, system.dtype))
        return system.outcome(state)["weight"]

    with pytest.raises(HardThresholdGradientError, match="cell of a proposal"):
        jax.eval_shape(lambda rate: jax.jvp(weight, (rate,), (rate,)), jnp.asarray(3e3))


class Drift(AbstractProposal):
    """Pushes the first normal by a multiple of how far the path has fallen: a proposal that looks."""

    push: Any
    looks: ClassVar[bool] = True

    def init(self, dtype):
        return ()

    def draw(self, memory, state, noise):
        by = -self.push * jnp.where(state[1] < -0.02, 1.0, 0.3)
        z = noise.normal[0] + by
        drawn = noise._replace(normal=noise.normal.at[0].set(z))
        return drawn, -by * z + 0.5 * by * by, memory


def test_frozen_proposals_weigh_both_ends_alike():
    """One that looks weighs the ends of a difference differently; following the path between them, it does not."""
    base = walk("merton")
    ends = [eqx.tree_at(lambda s: s.law.volatility, base, base.law.volatility * f) for f in (0.9, 1.1)]
    looking = Drift(jnp.asarray(0.4))
    apart = [simulate(Tilted(end, looking), paths=2_048) for end in ends]
    alike = [simulate(Tilted(end, Frozen(base, looking)), paths=2_048) for end in ends]
    assert (apart[0]["weight"] != apart[1]["weight"]).mean() > 0.01
    np.testing.assert_array_equal(alike[0]["weight"], alike[1]["weight"])
    for found in (*apart, *alike):
        assert abs(found["weight"].mean() - 1.0) < 4.0 * found["weight"].std() / 2_048**0.5


def test_the_frozen_proposal_is_what_an_estimate_uses():
    class Looking(Drift):  # of a venue
        def draw(self, memory, state, noise):
            return super().draw(memory, (None, state.path[0]), noise)

    sampling = Sampling(jumping(), 64, 64, proposal=Looking(np.asarray(0.4)))
    assert isinstance(sampling.frozen(), Frozen)
    assert sampling._replace(proposal=jump_tilt(4.0)).frozen().factor == 4.0


def jumping():
    """The account of `one_account` over two days with jumps, on average one in forty days."""
    jumps = market.MertonJumps(rate=9.125, deviation=0.03, mean=-0.05)
    return one.scenario(market=market.JumpDiffusion(jumps, 0.2), horizon="2d")


def jump_tilt(factor):
    return JumpTilt(jumping().market, "1d", factor)


NUMBERS = {
    "margin.maintenance_rate": 2e-3,
    "market.jumps.rate": 1.0,
    "market.jumps.mean": 2e-3,
    "impact.coefficient": 4e-3,
}


@pytest.mark.slow
@pytest.mark.parametrize("key", NUMBERS)
def test_a_gradient_is_the_same_under_any_proposal(key):
    """Numbers of the venue and of the law that is tilted; and the one made for it has the smaller error."""
    given = {"paths": 64 * 2_048, "dtype": np.float64, "step": NUMBERS[key], "chunk": 4_096}
    found = [
        tr.gradients.estimate(jumping(), (key,), proposal=proposal, seed=seed, **given)[key]
        for seed, proposal in enumerate((None, jump_tilt(3.0), jump_tilt(8.0)))
    ]
    for record, relative in zip(found, (0.3, 0.1, 0.1), strict=True):
        assert record.std_error[0] < relative * abs(record.estimate[0])
        assert record.accepted[0]
        assert abs(record.mean_weight - 1.0) <= 4.0 * record.mean_weight_error
    for one_of, other in ((0, 1), (0, 2), (1, 2)):
        spread = np.hypot(found[one_of].std_error[0], found[other].std_error[0])
        assert abs(found[one_of].estimate[0] - found[other].estimate[0]) < 3.0 * spread
    assert found[1].std_error[0] < 0.8 * found[0].std_error[0]  # rare jumps
    assert found[0].mean_weight == 1.0
    assert found[2].ess < 0.9 * found[2].paths
