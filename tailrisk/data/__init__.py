"""Readers of public archive formats."""

from .series import AbstractSeries as AbstractSeries
from .series import LogReturns as LogReturns
from .series import PriceArray as PriceArray
from .series import PriceFile as PriceFile
