"""Days of the public archive of Binance (data.binance.vision) or of a mirror of it, in a folder of the same layout."""

import concurrent.futures
import datetime
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from .._fields import InputError
from ._tables import hint
from .download import MissingError, fetch_file

BASE_URL = "https://data.binance.vision"
MARKETS = {"spot": "spot", "um": "futures/um", "cm": "futures/cm"}  # um: margined in USD, cm: in coins
BARS = ("klines", "markPriceKlines", "indexPriceKlines")
KINDS = {
    "spot": ("klines", "aggTrades"),
    "um": (*BARS, "aggTrades", "bookDepth", "metrics", "fundingRate", "liquidationSnapshot"),
    "cm": (*BARS, "aggTrades", "bookDepth", "metrics", "fundingRate", "liquidationSnapshot"),
}
MONTHLY = ("fundingRate",)  # there are no days of it
INTERVALS = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d")


def cache() -> Path:
    """The folder where this user's programs keep what can be fetched again."""
    home = Path.home()
    usual = {"darwin": home / "Library" / "Caches", "win32": Path(os.environ.get("LOCALAPPDATA", home))}
    return Path(os.environ.get("XDG_CACHE_HOME") or usual.get(sys.platform, home / ".cache")) / "tailrisk" / "data"


def paths(kind: str, symbol: str, first: str, last: str, market: str = "um", interval: str = "1m") -> list[str]:
    """The files of a market for all days from `first` to `last`, both included, as paths below the base URL.

    Example: `paths("bookDepth", "BTCUSDT", "2025-10-10", "2025-10-11")`.
    """
    if market not in MARKETS:
        raise InputError(f"market = {market!r}, expected one of {', '.join(MARKETS)}")
    if kind not in KINDS[market]:
        raise InputError(f"{market} has no {kind!r}{hint(kind, list(KINDS[market]))}")
    if kind in BARS and interval not in INTERVALS:
        raise InputError(f"interval = {interval!r}, expected one of {', '.join(INTERVALS)}")
    if not re.fullmatch(r"\w+", symbol):
        raise InputError(f"symbol = {symbol!r}, expected letters, digits and _ only, such as BTCUSDT")
    monthly = kind in MONTHLY
    days = [day.isoformat()[: 7 if monthly else 10] for day in _days(first, last)]
    folder = f"data/{MARKETS[market]}/{'monthly' if monthly else 'daily'}/{kind}/{symbol}"
    name = interval if kind in BARS else kind
    folder += f"/{interval}" if kind in BARS else ""
    return [f"{folder}/{symbol}-{name}-{day}.zip" for day in dict.fromkeys(days)]


def _days(first: str, last: str) -> list[datetime.date]:
    ends = []
    for name, text in (("start", first), ("end", last)):
        try:
            ends.append(datetime.date.fromisoformat(text))
        except ValueError:
            raise InputError(f"{name} = {text!r} is no day, expected for example 2025-10-10") from None
    if ends[1] < ends[0]:
        raise InputError(f"end = {last} is before start = {first}, expected days in order")
    return [ends[0] + datetime.timedelta(days=i) for i in range((ends[1] - ends[0]).days + 1)]


def fetch(
    wanted: Sequence[str],
    folder: Path,
    base_url: str = BASE_URL,
    jobs: int = 4,
    told: Callable[[str], None] = lambda text: None,
    *,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> list[Path]:
    """Fetches paths below the base URL into the folder, several at a time, and returns where they are.

    Files that are there already, with the right checksum, are not fetched again. A file that the archive does not have
    does not keep the others from coming; an archive that does not answer does.
    """
    if not re.match(r"https?://", base_url):
        raise InputError(f"base URL = {base_url!r}, expected one that begins with https:// or http://")
    stop = threading.Event()

    def one(path: str) -> bool:
        return fetch_file(f"{base_url.rstrip('/')}/{path}", folder / path, timeout=timeout, pause=pause, stop=stop)

    missing: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(one, path): path for path in wanted}
        try:
            for future in concurrent.futures.as_completed(running):
                name = running[future].rsplit("/", 1)[1]
                try:
                    said = "fetched" if future.result() else "already there"
                    told(f"{name}: {said}, {(folder / running[future]).stat().st_size / 1e6:.3g} MB")
                except MissingError:
                    missing.append(name)
                    told(f"{name}: not in the archive")
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    if missing:
        listed = ", ".join(sorted(missing)[:5]) + (", ..." if len(missing) > 5 else "")
        raise MissingError(
            f"{base_url}: {len(missing)} of {len(wanted)} files are not in the archive ({listed}); check symbol, kind, market "
            f"and days; the others are in {folder}"
        )
    return [folder / path for path in wanted]
