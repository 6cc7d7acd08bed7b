"""Readers of public archive formats, and series of real prices."""

from . import binance as binance
from . import bybit as bybit
from . import freqtrade as freqtrade
from . import hyperliquid as hyperliquid
from . import quality as quality
from . import tardis as tardis
from ._times import iso as iso
from ._times import microseconds as microseconds
from .aggregate import bars_of as bars_of
from .plain import read_plain as read_plain
from .read import read as read
from .series import AbstractSeries as AbstractSeries
from .series import LogReturns as LogReturns
from .series import PriceArray as PriceArray
from .series import PriceFile as PriceFile
from .tables import AbstractTable as AbstractTable
from .tables import Bars as Bars
from .tables import Depth as Depth
from .tables import Funding as Funding
from .tables import Liquidations as Liquidations
from .tables import OpenInterest as OpenInterest
from .tables import Source as Source
from .tables import Trades as Trades
from .tables import join as join
