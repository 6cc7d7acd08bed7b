"""Hyperliquid: fills of its nodes or API, liquidations among them, funding rates and margin tables.

A fill is one side of a trade. Files of nodes (JSON lines, also .lz4 or .gz) name the account of each: lines are
`[user, fill]`, or blocks with a list of such pairs under `events`. Answers of the API are a list of fills of one account.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .._fields import InputError
from ..margin.brackets import Brackets
from ._columns import Columns
from ._json import columns_of, read_json, read_lines
from ._rows import table_of
from .tables import Funding, Liquidations, Trades

_FILL = ("time", "coin", "px", "sz", "side", "crossed", "tid")


def read_fills(path: Path | str, coin: str = "") -> Trades:
    """Trades of one coin, by time, once for the two fills that a trade is; the aggressive side is the one that crossed."""
    path = Path(path)
    rows = [(number, fill) for number, _, fill in _fills(path)]
    columns = _of_coin(columns_of(path, _FILL, [fill for _, fill in rows], [number for number, _ in rows]), coin)
    first = np.zeros(len(columns.row), bool)
    first[np.unique(columns.whole("tid"), return_index=True)[1]] = True
    columns = columns.keep(first)
    fields = {
        "time": columns.time("time"),
        "price": columns.real("px"),
        "amount": columns.real("sz"),
        "is_sell": columns.side("side", "A", "B") == columns.flag("crossed"),
    }
    return table_of(Trades, columns, fields, keys=[columns.whole("tid")], symbol=columns.symbol("coin"), by_time=True)


def read_liquidations(path: Path | str, coin: str = "") -> Liquidations:
    """Fills of accounts that were liquidated, by time; `price` is the mark price at which that was decided.

    Counterparties are left out, and so are those closed by automatic deleveraging, who were not liquidated. Only files
    of nodes say which side of a trade was liquidated.
    """
    path = Path(path)
    rows, numbers = [], []
    for number, user, fill in _fills(path):
        forced = fill.get("liquidation")
        if not isinstance(forced, dict):
            continue
        if not user:
            raise InputError(
                f"{path} row {number}: a liquidation without the account of the fill, so its side is not known; give a "
                "file of a node, JSON lines of [user, fill]"
            )
        if str(forced.get("liquidatedUser")).lower() == user.lower():
            rows.append(fill | {"markPx": forced.get("markPx")})
            numbers.append(number)
    columns = _of_coin(columns_of(path, (*_FILL, "markPx"), rows, numbers), coin)
    fields = {
        "time": columns.time("time"),
        "is_long": columns.side("side", "A", "B"),
        "amount": columns.real("sz"),
        "price": columns.real("markPx", optional=True),
        "fill_price": columns.real("px"),
    }
    return table_of(
        Liquidations, columns, fields, keys=[columns.whole("tid")], symbol=columns.symbol("coin"), by_time=True
    )


def read_funding(path: Path | str, coin: str = "") -> Funding:
    """Hourly rates of a stored answer of the API."""
    path = Path(path)
    columns = _of_coin(columns_of(path, ("time", "coin", "fundingRate"), read_json(path)), coin)
    fields = {"time": columns.time("time"), "rate": columns.real("fundingRate"), "interval": np.ones(len(columns.row))}
    return table_of(Funding, columns, fields, symbol=columns.symbol("coin"), by_time=True)


def read_margin_table(path: Path | str) -> Brackets:
    """A `marginTable` of the API as margin rules: the maintenance rate is half the initial rate at greatest leverage."""
    path = Path(path)
    answer = read_json(path)
    tiers = answer.get("marginTiers") if isinstance(answer, dict) else None
    if not tiers:
        raise InputError(f"{path}: no marginTiers, expected an answer to a question of type marginTable")
    columns = columns_of(path, ("lowerBound", "maxLeverage"), tiers)
    leverage = columns.real("maxLeverage")
    return Brackets(columns.real("lowerBound"), 0.5 / leverage, leverage)


def _fills(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Line or entry, account (empty if the file does not name it) and fill."""
    if ".json" in path.suffixes:
        for number, fill in enumerate(read_json(path), start=1):
            yield number, "", fill
        return
    for number, line in read_lines(path):
        pairs = line.get("events", []) if isinstance(line, dict) else [line]
        if not isinstance(pairs, list):
            raise InputError(
                f"{path} row {number}: events = {pairs!r:.60}, expected a list of pairs; remove or mend the line"
            )
        for pair in pairs:
            if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], dict)):
                raise InputError(f"{path} row {number}: {pair!r:.60}, expected a pair of an account and a fill")
            yield number, str(pair[0]), pair[1]


def _of_coin(columns: Columns, coin: str) -> Columns:
    return columns.only("coin", coin) if coin else columns
