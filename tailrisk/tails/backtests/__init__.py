"""Tests of a risk forecast. Profit and loss is negative for a loss; value-at-risk and expected shortfall are positive losses."""

from .coverage import christoffersen as christoffersen
from .coverage import kupiec as kupiec
from .null import Forecast as Forecast
from .null import Verdict as Verdict
from .null import exceptions as exceptions
from .null import forecast as forecast
from .null import scaled as scaled
from .scores import Comparison as Comparison
from .scores import compare as compare
from .scores import fissler_ziegel as fissler_ziegel
from .sequential import Wealth as Wealth
from .sequential import e_test as e_test
from .shortfall import shortfall_tests as shortfall_tests
