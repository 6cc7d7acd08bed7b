"""Rows in the formats of public archives, written for the tests: the same columns, spellings and oddities."""

import gzip
import io
import zipfile

DAY = 1_760_054_400  # 2025-10-10 00:00:00 UTC, s
KLINE_HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)
TRADE_HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"
DEPTH_HEADER = "timestamp,percentage,depth,notional"
METRICS_HEADER = (
    "create_time,symbol,sum_open_interest,sum_open_interest_value,count_toptrader_long_short_ratio,"
    "sum_toptrader_long_short_ratio,count_long_short_ratio,sum_taker_long_short_vol_ratio"
)
FUNDING_HEADER = "calc_time,funding_interval_hours,last_funding_rate"
LIQUIDATION_HEADER = (
    "time,side,order_type,time_in_force,original_quantity,price,average_price,order_status,last_fill_quantity,"
    "accumulated_fill_quantity"
)


def kline(i, close=100.0, unit=1000, every=60, volume=2.0, spread=1.0):
    """Minute i of the day: opens and closes at `close`, with a wick of `spread` on both sides."""
    start = (DAY + i * every) * unit
    return (
        f"{start},{close},{close + spread},{close - spread},{close},{volume},{start + every * unit - 1},"
        f"{volume * close},7,{volume / 4},{volume * close / 4},0"
    )


def clock(seconds):
    """A time of the day as archives write it: UTC, without saying so."""
    return f"2025-10-10 {seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def snapshot(seconds, mid=100.0, size=10.0, bands=(-2, -1, 1, 2)):
    """Rows of a book with `size` units in each shell of one percent, at the price in its middle."""
    rows = []
    for band in bands:
        side = -1 if band < 0 else 1
        prices = [mid * (1 + side * (k + 0.5) / 100) for k in range(abs(band))]
        rows.append(f"{clock(seconds)},{band},{size * len(prices)},{size * sum(prices):.4f}")
    return rows


def text(header, rows):
    return "\n".join(([header] if header else []) + list(rows)) + "\n"


def put(folder, name, content):
    """Writes text as a plain file, a .gz, or a .zip whose member has the same name as a CSV file."""
    path = folder / name
    raw = content.encode()
    if name.endswith(".gz"):
        raw = gzip.compress(raw, mtime=0)
    if name.endswith(".zip"):
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name.replace(".zip", ".csv"), raw)
        raw = held.getvalue()
    path.write_bytes(raw)
    return path
