"""Files of the public archive of Binance (data.binance.vision), as zip or unpacked."""

from .agg_trades import read_agg_trades as read_agg_trades
from .book_depth import read_book_depth as read_book_depth
from .funding_rate import read_funding_rate as read_funding_rate
from .klines import read_klines as read_klines
from .liquidation_snapshot import read_liquidation_snapshot as read_liquidation_snapshot
from .metrics import read_metrics as read_metrics
