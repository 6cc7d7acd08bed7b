"""Gradients of expected losses through hard liquidation thresholds, each with a method, an error and a statement of bias."""

from .._hard import HardThresholdGradientError as HardThresholdGradientError
from . import branch as branch
from . import controls as controls
from . import differences as differences
from . import measure_valued as measure_valued
from . import oracle as oracle
from . import score as score
from . import shift as shift
from .auto import estimate as estimate
from .functionals import AbstractFunctional as AbstractFunctional
from .functionals import BadDebt as BadDebt
from .functionals import Exceedance as Exceedance
from .functionals import ForcedVolume as ForcedVolume
from .functionals import FundExhausted as FundExhausted
from .functionals import HaltedSteps as HaltedSteps
from .functionals import TailExcess as TailExcess
from .functionals import Totals as Totals
from .functionals import UncoveredDebt as UncoveredDebt
from .ladder import Ladder as Ladder
from .ladder import LadderBook as LadderBook
from .ladder import WalkLaw as WalkLaw
from .ladder import reference_book as reference_book
from .record import Gradient as Gradient
from .walk import LadderWalk as LadderWalk
