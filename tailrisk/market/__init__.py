"""Laws of exogenous price moves: diffusions, jumps, stochastic volatility, self-excitation, regimes, real returns."""

from .arithmetic_brownian import ArithmeticBrownian as ArithmeticBrownian
from .base import AbstractMarket as AbstractMarket
from .base import Shock as Shock
from .geometric_brownian import GeometricBrownian as GeometricBrownian
from .hawkes import Hawkes as Hawkes
from .heston import Heston as Heston
from .jump_diffusion import JumpDiffusion as JumpDiffusion
from .jumps import AbstractJumps as AbstractJumps
from .jumps import KouJumps as KouJumps
from .jumps import MertonJumps as MertonJumps
from .mean_reverting import MeanReverting as MeanReverting
from .real_returns import BlockBootstrap as BlockBootstrap
from .real_returns import Replay as Replay
from .regime_switching import RegimeSwitching as RegimeSwitching
