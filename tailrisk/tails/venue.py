"""A built scenario as a problem of rare events: which noise of its market does what, and how far a path has come.

This is the one module of `tails` that knows a venue. What decides about bad debt is the price, and the noise moves it through
the diffusion, the jumps and, where jumps excite each other, the intensity from which a path starts.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import InputError
from .._rare import rare
from .._streams import Draws, Noise, Roles
from ..cascade import State
from ..scenario import VenueSystem
from .problem import AbstractProblem

MEASURES = ("fall", "rise", "bad_debt", "fund_use")
SIDES = ("both", "fall", "rise")


@runtime_checkable
class Tiltable(Protocol):
    """A law of moves that says what the numbers of a step do, and how likely its events are."""

    @property
    def roles(self) -> Roles: ...
    def chance(self, state: Any, noise: Noise, dt: Any, event: int) -> Any: ...


def roles_of(market: Any) -> Roles:
    """What the numbers of a step of a market law do.

    **Raises:** `InputError` for laws of real returns: their noise picks hours of the past, not the size of a move.
    """
    if isinstance(market, Tiltable):
        return market.roles
    if market.draws.normals and not market.draws.uniforms:
        return Roles()
    raise InputError(
        f'market.kind = "{type(market).__name__}": its noise picks real returns and cannot be tilted towards a tail; use '
        'run.estimator = "monte_carlo", or a law such as Hawkes, JumpDiffusion, RegimeSwitching, Heston or GeometricBrownian'
    )


class VenuePath(NamedTuple):
    """A path of the venue, and the largest share of the fund that was gone so far."""

    venue: State
    fund_use: Float[Array, ""]
    step: Float[Array, ""]  # steps done


class VenueProblem(AbstractProblem):
    """A built scenario whose paths move towards bad debt.

    `measure` says how far a path has come: "bad_debt" (USD so far), "fund_use" (the largest share of the fund that was gone, one
    if a deficit found it empty), "fall" and "rise" (log price of the first asset against its start). Bad debt comes in few large
    steps, so what tells a tilt how much is left to do is the debt, not the price.

    Outcomes: the `score`; `bad_debt` and `fund_use` of the path, those of a path whose price went further to the other `side`
    ("fall" or "rise") counting as zero: no single tilt leads to bad debt of longs and of shorts. On its way such a path uses the
    fund only in steps in which the price went to its side.

    **Raises:** `InputError` for a market whose noise cannot be tilted.
    """

    system: VenueSystem
    measure: str = eqx.field(static=True)
    side: str = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, system: VenueSystem, measure: str = "bad_debt", side: str = "both"):
        if measure not in MEASURES or side not in SIDES:
            raise InputError(
                f"measure = {measure!r}, side = {side!r}: expected one of {', '.join(MEASURES)} and one of {', '.join(SIDES)}"
            )
        roles_of(system.cascade.market)
        self.system, self.measure, self.side = system, measure, side
        self.steps, self.dtype = system.steps, system.dtype

    @property
    def draws(self) -> Draws:
        """Those of the market, and a uniform for tilts."""
        normals, uniforms = self.system.draws
        return Draws(normals, uniforms + 1)

    @property
    def roles(self) -> Roles:
        return roles_of(self.system.cascade.market)._replace(spare=self.system.draws.uniforms)

    def init(self) -> VenuePath:
        zero = jnp.zeros((), self.dtype)
        return VenuePath(self.system.init(), zero, zero)

    def step(self, state: VenuePath, noise: Noise) -> tuple[VenuePath, Any]:
        venue, shown = self.system.step(state.venue, noise)
        use = self._fund_use(venue, state.fund_use)
        if self.side != "both":
            moved = self._log_price(venue) - self._log_price(state.venue)
            use = jnp.where((moved < 0.0) == (self.side == "fall"), use, state.fund_use)
        path = VenuePath(venue, use, state.step + 1.0)
        if self.measure != "fund_use":
            return path, shown
        # deficits that are open at the horizon are paid then; a score that left them out would not be that of the outcome
        return rare(path.step >= self.steps, lambda one, last: one.settled(last), self, path), shown

    def settled(self, last: VenuePath) -> VenuePath:
        """The path with what its open deficits take from the fund at the horizon."""
        ruined = self.system.outcome(last.venue)["fund_depleted"] > 0.0
        return last._replace(fund_use=jnp.where(ruined, 1.0, last.fund_use))

    def _log_price(self, venue: State) -> Float[Array, ""]:
        return self.system.cascade.price(venue.path, venue.books.impact)[0]

    def _fund_use(self, venue: State, before: Float[Array, ""]) -> Float[Array, ""]:
        fund, left = self.system.cascade.waterfall.fund, venue.books.waterfall
        gone = jnp.where(fund > 0.0, 1.0 - left.fund / jnp.where(fund > 0.0, fund, 1.0), 0.0)
        below_one = 1.0 - jnp.finfo(gone.dtype).epsneg  # one is for a deficit that was not paid
        return jnp.where(left.ruined, 1.0, jnp.minimum(jnp.maximum(before, gone), below_one))

    def place(self, state: VenuePath) -> Float[Array, ""]:
        if self.measure in ("bad_debt", "fund_use"):
            return self.score(state)
        price = self._log_price(state.venue)
        return price if self.measure == "rise" else -price

    def score(self, state: VenuePath) -> Float[Array, ""]:
        seen = state.venue.seen
        match self.measure:
            case "fall":
                return -seen.market_low
            case "rise":
                return seen.market_high
            case "fund_use":
                return state.fund_use
        return state.venue.books.ledger.tree.totals.bad_debt

    def chance(self, state: VenuePath, noise: Noise, event: int) -> Float[Array, ""]:
        market = self.system.cascade.market
        assert isinstance(market, Tiltable)
        return market.chance(state.venue.market, noise, self.system.dt, event)

    def outcome(self, state: VenuePath) -> dict[str, Any]:
        found = self.system.outcome(state.venue)
        use = jnp.where(found["fund_depleted"] > 0.0, 1.0, state.fund_use)
        fell = found["market_fall"] >= found["market_rise"]
        counts = {"both": fell | ~fell, "fall": fell, "rise": ~fell}[self.side]
        both = {"bad_debt": found["bad_debt"], "fund_use": use}
        return {"score": self.score(state)} | {name: jnp.where(counts, x, 0.0) for name, x in both.items()}
