"""Extreme-value laws fitted to tails: a check of other estimates, and plots of where a tail begins."""

from . import clusters as clusters
from . import gev as gev
from . import gpd as gpd
from . import profile as profile
from . import thresholds as thresholds
