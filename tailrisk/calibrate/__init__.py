"""From data to the numbers of a scenario: market laws, impact and depth, books, each with its interval."""

from .garch import GarchT as GarchT
from .goodness import goodness as goodness
from .hawkes import HawkesFilter as HawkesFilter
from .kou import Kou as Kou
from .likelihood import AbstractLaw as AbstractLaw
from .likelihood import Fit as Fit
from .likelihood import contest as contest
from .likelihood import fit as fit
from .merton import Merton as Merton
from .regimes import Regimes as Regimes
from .returns import Returns as Returns
from .returns import joined as joined
from .returns import of_moves as of_moves
from .returns import returns as returns
from .returns import thinned as thinned
