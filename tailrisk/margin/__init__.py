"""What a position must be backed by: schedules, their dynamics, prices at which they bind, statistical sizing."""

from .base import AbstractMargin as AbstractMargin
from .brackets import Brackets as Brackets
from .calls import Call as Call
from .flat import Flat as Flat
from .procyclicality import AbstractVolatilityTool as AbstractVolatilityTool
from .procyclicality import LookbackFloor as LookbackFloor
from .procyclicality import MarginBuffer as MarginBuffer
from .procyclicality import StressWeight as StressWeight
from .procyclicality import Untreated as Untreated
from .volatility import VolatilityScaled as VolatilityScaled
