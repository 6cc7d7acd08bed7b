"""Who pays when closed positions owe more than they have: fund, backstop, winners, everybody, the venue."""

from .backstop import Backstop as Backstop
from .backstop import Inventory as Inventory
from .base import Closing as Closing
from .deleveraging import AbstractAllocation as AbstractAllocation
from .deleveraging import CappedProRata as CappedProRata
from .deleveraging import ProRata as ProRata
from .deleveraging import Queue as Queue
from .deleveraging import RiskAware as RiskAware
from .settle import Payment as Payment
from .settle import Waterfall as Waterfall
from .settle import WaterfallState as WaterfallState
