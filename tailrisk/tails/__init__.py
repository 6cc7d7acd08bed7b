"""Estimators of tails and their intervals; they know no finance."""

from . import measures as measures
from .proposal import AbstractProposal as AbstractProposal
from .proposal import Frozen as Frozen
from .proposal import JumpTilt as JumpTilt
from .proposal import Tilted as Tilted
