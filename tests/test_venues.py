"""Every venue table parses, builds its class, passes its checks, and reproduces the published deductions."""

import csv
import gzip
import json
import tomllib

import numpy as np
import pytest
from conftest import ROOT

from tailrisk._fields import problems
from tailrisk.margin import AbstractMargin, Brackets, Call, Flat

VENUES = sorted((ROOT / "configs" / "venues").glob("*.toml"))
BINANCE = {"btc": "BTC", "eth": "ETH", "small": "MYX"}


def build(path):
    table = tomllib.loads(path.read_text())
    margin = dict(table["margin"])
    return {"Brackets": Brackets, "Flat": Flat}[margin.pop("kind")](**margin), table


@pytest.mark.parametrize("path", VENUES, ids=lambda p: p.stem)
def test_venue_builds(path):
    """[margin] is the constructor of its class, a call that of Call; the header says where the numbers are from."""
    margin, table = build(path)
    assert isinstance(margin, AbstractMargin)
    assert not list(problems(margin))
    assert set(table) <= {"margin", "positions"}
    if "positions" in table:
        assert not list(problems(Call(**table["positions"]["call"])))
    header = path.read_text().split("\n\n")[0]
    for word in ("Source:", "Date:" if "binance" not in path.stem else "Table of", "Licence:"):
        assert word in header
    assert all(line.startswith("#") for line in header.splitlines())


def test_all_venues_are_there():
    assert len(VENUES) == 7


def snapshot(folder, date):
    """Rows of the published brackets by symbol."""
    name = folder / "leverage_tiers" / "binance_um_leverage_brackets_2022-04_to_2026-09.csv.gz"
    tables = {}
    with gzip.open(name, "rt") as file:
        for row in csv.DictReader(file):
            if row["snapshot"] == date:
                tables.setdefault(row["symbol"], []).append(row)
    return {symbol: {k: np.array([float(r[k]) for r in rows]) for k in rows[0] if k not in ("snapshot", "symbol")}
            for symbol, rows in tables.items()}  # fmt: skip


@pytest.mark.parametrize("name", BINANCE)
def test_binance_table_and_deductions(market_data, name):
    """Floors, rates and leverage as published; the computed deductions are the published `cum` column to the cent."""
    published = snapshot(market_data, "2025-09")[f"{BINANCE[name]}/USDT:USDT"]
    margin, _ = build(ROOT / "configs" / "venues" / f"binance_usdm_{name}_2025-09-29.toml")
    np.testing.assert_array_equal(margin.floors[0], published["min_notional"])
    np.testing.assert_array_equal(margin.maintenance_rates[0], published["mmr"])
    np.testing.assert_array_equal(margin.max_leverage[0], published["max_leverage"])
    np.testing.assert_allclose(margin.lines()[1][0], published["cum"], atol=0.005, rtol=0)


def test_every_published_table_is_accepted(market_data):
    """All contracts of the snapshot pass the checks and reproduce their deductions: one ragged table of all of them."""
    tables = snapshot(market_data, "2025-09")
    assert len(tables) == 588
    columns = ("min_notional", "mmr", "max_leverage", "cum")
    floors, rates, leverage, cum = ([table[c] for table in tables.values()] for c in columns)
    margin = Brackets(floors, rates, leverage)
    assert not list(problems(margin))
    for row, published in zip(margin.lines()[1], cum, strict=True):
        np.testing.assert_allclose(row[: published.size], published, rtol=1e-9, atol=0.01)
        assert (row[published.size :] == row[published.size - 1]).all()


@pytest.mark.parametrize("coin", ["BTC", "ETH"])
def test_hyperliquid_table(market_data, coin):
    """Rate = 1 / (2 max leverage); rates and deductions as published, where 1/30 is printed with five digits."""
    name = market_data / "leverage_tiers" / "hyperliquid_margin_tiers_mainnet_docs.json"
    published = json.loads(name.read_text())["tiers"][coin]
    margin, _ = build(ROOT / "configs" / "venues" / f"hyperliquid_{coin.lower()}.toml")
    np.testing.assert_allclose(margin.maintenance_rates, 0.5 / margin.max_leverage, rtol=1e-15)
    np.testing.assert_array_equal(margin.floors[0], [tier["lower_bound_usdc"] for tier in published])
    np.testing.assert_array_equal(margin.max_leverage[0], [tier["max_leverage"] for tier in published])
    np.testing.assert_allclose(
        margin.maintenance_rates[0], [tier["maintenance_margin_rate"] for tier in published], atol=5e-7, rtol=0
    )
    np.testing.assert_allclose(
        margin.lines()[1][0], [tier["maintenance_deduction_usdc"] for tier in published], rtol=3e-5
    )
