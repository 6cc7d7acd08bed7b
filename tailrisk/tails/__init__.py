"""Estimators of tails and their intervals; they know no finance."""

from . import accumulator as accumulator
from . import backtests as backtests
from . import diagnostics as diagnostics
from . import extremes as extremes
from . import measures as measures
from . import plan as plan
from . import streamed as streamed
from . import tail_index as tail_index
from . import weighted as weighted
from .proposal import AbstractProposal as AbstractProposal
from .proposal import Frozen as Frozen
from .proposal import JumpTilt as JumpTilt
from .proposal import Tilted as Tilted
