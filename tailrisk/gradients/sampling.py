"""Which paths an estimate for a venue runs, and how their outcomes come back: in double precision, each with its weight."""

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .._fields import InputError, cast
from .._streams import noise_keys
from ..leaves import with_parameters
from ..scenario import Scenario
from ..simulate import AbstractSystem, simulate
from ..tails.proposal import AbstractProposal, Frozen, Tilted
from .quantities import with_derived
from .record import PILOT_FIRST, batch_size

PILOT_BATCHES = 32
PILOT_SHARE = 8  # of the reported paths is one of a pilot


class Sampling(NamedTuple):
    """Common to all runs of an estimate: the scenario at theta, paths, precision, and the proposal for their noise."""

    scenario: Scenario
    paths: int
    batches: int
    seed: int = 0
    root: str = "market"
    chunk: int = 1_024
    dtype: Any = np.dtype("float32")
    proposal: AbstractProposal | None = None

    @property
    def size(self) -> int:
        """Paths of a batch."""
        return batch_size(self.paths, self.batches)

    @property
    def pilot_paths(self) -> int:
        """Paths of a pilot: whole chunks in whole batches."""
        unit = PILOT_BATCHES * -(-self.chunk // PILOT_BATCHES)
        return unit * max(1, round(self.paths / PILOT_SHARE / unit))

    def frozen(self) -> AbstractProposal | None:
        """The proposal as both ends of a difference see it: with the noise and the weights of the path at theta."""
        if self.proposal is None or not self.proposal.looks:
            return self.proposal
        return Frozen(self.scenario.build(self.dtype), self.proposal)

    def tilted(self, system: AbstractSystem) -> AbstractSystem:
        """The system under the proposal."""
        proposal = self.frozen()
        return system if proposal is None else Tilted(system, cast(proposal, self.dtype))

    def system(self, parameters: Mapping[str, Any]) -> AbstractSystem:
        """The scenario with some numbers replaced, built and under the proposal."""
        return self.tilted(with_parameters(self.scenario, parameters).build(self.dtype))

    def run(self, system: AbstractSystem, first: int, paths: int) -> dict[str, np.ndarray]:
        """Outcomes of the paths from `first` on, and whether a breaker tripped, for the record."""
        keys = noise_keys(self.seed, self.root)
        out = with_derived(simulate(system, paths=paths, first=first, chunk=min(self.chunk, paths), keys=keys))
        return out | {"tripped": out["halted_time"]} if "halted_time" in out else out

    def pilot(self, system: AbstractSystem) -> dict[str, np.ndarray]:
        """Outcomes of paths that no reported estimate uses."""
        return self.run(system, PILOT_FIRST, self.pilot_paths)


def outcome_of(found: dict[str, np.ndarray], name: str) -> np.ndarray:
    """One named outcome.

    **Raises:** `InputError` naming those there are.
    """
    if name not in found:
        known = [key for key in found if key not in ("tripped", "weight", "log_weight")]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        raise InputError(f"outcome {name!r}: there is no such outcome; {hint}")
    return found[name]
