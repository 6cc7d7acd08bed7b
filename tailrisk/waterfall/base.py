"""What the waterfall is handed: the result of closing positions, whatever they are made of."""

from typing import NamedTuple

from jaxtyping import Array, Float


class Closing(NamedTuple):
    """What closing positions produced in a step; USD sums over accounts unless said otherwise.

    deficit: sum of negative equities of closed groups (bad debt before the waterfall). fee: liquidation fees paid out of
    equity. surplus: positive equity left after the fee. deposit: top-ups posted from reserves. notional: gross USD traded
    by force. opened: gross initial notional (quantity x p0) of what was closed. bankrupt: gross units closed in deficit.
    """

    deficit: Float[Array, ""]
    fee: Float[Array, ""]
    surplus: Float[Array, ""]
    deposit: Float[Array, ""]
    notional: Float[Array, ""]
    opened: Float[Array, ""]
    bankrupt: Float[Array, " assets"]  # signed like the closed position: + longs in deficit, - shorts in deficit
    taken: Float[Array, " assets"] | None = None  # signed units a backstop took over; None: no backstop in the rules
    taken_money: Float[Array, ""] | None = None  # with them: their equity at prices p is taken_money + taken (p - p0)
