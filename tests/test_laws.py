"""Laws of the whole engine over the catalogue of components: money, chunks, replay, precision, traces, symmetries.

A program takes seconds to compile, so the fast tests use twelve scenarios that together hold every component, and each
program serves several laws; `pytest -m slow` puts every component on its own into the base scenario.
"""

import sys
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import (
    BREAKERS_LIKE,
    IMPACTS,
    KINDS,
    SYMMETRIC_IMPACTS,
    UNITS,
    GivenBook,
    Shuffled,
    covering,
    long_with_level,
    named,
    one_at_a_time,
    scenario,
    short_with_level,
)

from tailrisk import liquidation, margin, market, waterfall
from tailrisk._streams import noise, noise_keys
from tailrisk.market import AbstractMarket
from tailrisk.scenario import Accounts, SortedLadder
from tailrisk.simulate import outcomes, simulate

engine = sys.modules["tailrisk.simulate"]  # the package gives its name to a function

GROSS = 1e2 * UNITS  # USD of one asset
PATHS = 192
PAYERS = ("fund_paid", "backstop_paid", "capital_paid", "adl_pnl", "socialized_loss", "residual_loss")
MONEY = ("bad_debt", "forced_notional", "fees", "surplus_returned", "deposits", "fund_end", "adl_pnl", "residual_loss")
LEVELS = ("market_fall", "market_rise", "final_log_price", "liquidated_share", "halted_time")
ROUNDING = 7e-5
"""Largest difference of the two precisions, as a share of open interest: 6e-8 a step, 24 steps, and up to 50 times more
where a path is unstable (depth evaporates to 2 %, a cascade multiplies what starts it)."""


def ids(rows):
    return ["-".join(row.values()).replace(" ", "_") for row in rows]


ROWS = covering()
BOTH = [ROWS[0], ROWS[3], ROWS[10]]  # in both precisions
HALF = [(row, np.dtype("float32")) for row in ROWS] + [(row, np.dtype("float64")) for row in BOTH]


def key(names: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(names.items())


@cache
def result(names: Any, dtype: Any) -> dict[str, np.ndarray]:
    """Outcomes in three batches of 64."""
    return simulate(scenario(dict(names)).build(dtype), paths=PATHS, chunk=64)


def assert_money_adds_up(found, dtype):
    """The ledger closes on every path, and what was paid is the bad debt; nobody pays less than nothing."""
    single = dtype == np.float32
    assert found["flag_broken"].max() == 0
    # The residual is a share of the first notional; rounding is one of the notional now, 26 times that in a squeeze.
    highest = np.exp(found["market_rise"].astype(np.float64))
    assert (np.abs(found["ledger_residual"]) / highest).max() < (1e-6 if single else 1e-12)
    paid = [found[name].astype(np.float64) for name in PAYERS]
    apart = np.abs(sum(paid) - found["bad_debt"]) / (GROSS * highest)
    assert apart.max() < (1e-6 if single else 1e-12)
    assert min(part.min() for part in paid) >= 0.0
    assert found["liquidated_share"].max() <= 1.0 + (1e-5 if single else 1e-12)
    assert (found["open_deficit"] <= found["bad_debt"] * (1.0 + 1e-5)).all()
    assert (found["peak_notional"] <= found["forced_notional"] * (1.0 + 1e-5)).all()


def assert_one_trace(names, dtype, monkeypatch):
    """A hundredth less in every traced number of every component runs the same program."""
    keep = (".share", ".correlation", ".cap")  # what must sum to one, or be one

    def more(path, leaf):
        name = jax.tree_util.keystr(path)
        numeric = isinstance(leaf, np.ndarray | jax.Array) and np.issubdtype(leaf.dtype, np.floating)
        moves = numeric and not name.endswith(keep) and not name.startswith(".book")  # a book is a structure
        return np.asarray(0.99 * leaf) if moves else leaf

    traces, original = [], engine.rollout
    monkeypatch.setattr(engine, "rollout", lambda *given: traces.append(1) or original(*given))
    base = scenario(dict(names))
    moved = jax.tree_util.tree_map_with_path(more, base)
    assert sum(a is not b for a, b in zip(jax.tree.leaves(base), jax.tree.leaves(moved), strict=True)) >= 12
    before = result(names, dtype)
    after = simulate(moved.build(dtype), paths=64, chunk=64)
    assert not traces
    assert any((after[name] != before[name][:64]).any() for name in ("market_fall", "market_rise"))


def assert_order_of_accounts_is_nothing(names, dtype):
    """A book is a set: its rows in another order give the same outcomes but for the rounding of sums."""
    base = scenario(dict(names))
    shuffled = eqx.tree_at(lambda s: s.book, base, Shuffled(base.book))
    found, wanted = simulate(shuffled.build(dtype), paths=64, chunk=64), result(names, dtype)
    assert_agree(found, {name: value[:64] for name, value in wanted.items()}, ROUNDING if dtype == np.float32 else 1e-9)


def assert_agree(found, wanted, tolerance, branches=0.0):
    """Equal within a tolerance, except for a share of paths that took another branch at a threshold."""
    apart = np.zeros(len(wanted["bad_debt"]), bool)
    for name in MONEY:
        apart |= np.abs(found[name].astype(np.float64) - wanted[name]) > tolerance * GROSS
    for name in LEVELS:
        apart |= np.abs(found[name].astype(np.float64) - wanted[name]) > tolerance
    assert apart.mean() <= branches, f"{apart.sum()} of {apart.size} paths differ by more than {tolerance}"


@pytest.mark.parametrize(("names", "dtype"), HALF, ids=[f"{i}-{t}" for i, (_, t) in enumerate(HALF)])
def test_laws_hold(names, dtype, monkeypatch):
    """Money adds up, one trace serves all numbers, the order of accounts means nothing."""
    assert (result(key(names), dtype)["forced_notional"] > 0).any()
    assert_money_adds_up(result(key(names), dtype), dtype)
    assert_order_of_accounts_is_nothing(key(names), dtype)
    assert_one_trace(key(names), dtype, monkeypatch)
    for other in (other for other, like in BREAKERS_LIKE.items() if like == names["breaker"]):
        assert_money_adds_up(result(key(names | {"breaker": other}), dtype), dtype)


@pytest.mark.parametrize("names", BOTH, ids=["0", "3", "10"])
def test_float32_agrees_with_float64(names):
    """Path by path; one in fifty may take another branch, where a threshold fell between two roundings."""
    single, double = (result(key(names), np.dtype(t)) for t in ("float32", "float64"))
    assert_agree(single, double, ROUNDING, branches=0.02)


def assert_replay_is_the_same(names, dtype):
    system, wanted = scenario(names).build(dtype), result(key(names), dtype)
    numbers = np.random.default_rng(1).permutation(PATHS)
    found, flow = outcomes(system, 0, numbers, record=True)
    some, shown = outcomes(system, 0, numbers[:64], record=True)
    for one, other in zip(jax.tree.leaves((some, shown)), jax.tree.leaves((found, flow)), strict=True):
        np.testing.assert_array_equal(one, other[:64])
    again = from_noise(system, drawn(system, numbers[:64]))
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value[numbers], err_msg=f"{name}, recorded")
        np.testing.assert_array_equal(again[name], value[numbers[:64]], err_msg=f"{name}, replayed")
    deficit = flow.deficit.astype(np.float64).sum(axis=1) + found["open_deficit"]
    np.testing.assert_allclose(deficit, found["bad_debt"], rtol=0, atol=1e-6 * GROSS)


def drawn(system, numbers):
    """Noise of all steps of some paths of seed 0, made beforehand."""
    keys, steps = noise_keys(0, "market"), jnp.arange(system.steps, dtype=jnp.uint32)

    def one(path):
        return jax.vmap(lambda step: noise(keys, path, step, system.draws, system.dtype))(steps)

    return jax.jit(jax.vmap(one))(jnp.asarray(numbers, jnp.uint32))


@engine.entry_point
def from_noise(system, given):
    """Outcomes of paths whose noise is given as arrays."""

    def one(numbers):
        state, _ = engine.rollout(system, lambda step: jax.tree.map(lambda leaf: leaf[step], numbers))
        return system.outcome(state)

    return jax.vmap(one)(given)


def assert_chunks_change_no_bit(names, dtype):
    whole = simulate(scenario(names).build(dtype), paths=PATHS, chunk=PATHS)
    for name, value in result(key(names), dtype).items():
        np.testing.assert_array_equal(whole[name], value, err_msg=name)


def test_catalogue_is_complete():
    """Every entry is in one of the rows, or runs the program of one, or is left to the slow tests by name."""
    for kind, items in KINDS.items():
        used = {row[kind] for row in ROWS} | set(BREAKERS_LIKE) | {"block bootstrap, 2 assets"}
        assert set(items) <= used, kind


class Mirror(AbstractMarket):
    """Another law with the sign of its returns turned."""

    law: AbstractMarket
    sign: Any

    @property
    def assets(self):
        return self.law.assets

    @property
    def draws(self):
        return self.law.draws

    def init(self, dtype):
        return self.law.init(dtype)

    def move(self, state, noise, dt):
        shock, state = self.law.move(state, noise, dt)
        return shock._replace(log_return=self.sign * shock.log_return), state

    def prepare(self):
        return self

    def check_step(self, dt):
        return self.law.check_step(dt)


def mirrored(side, impact_name, kernel, scale=1.0):
    """Longs under returns +r, or shorts with thresholds at the same distance in log price under -r."""
    levels = -scale * np.linspace(0.01, 0.12, 60)
    long, short = long_with_level(levels, 0.02), short_with_level(-levels, 0.02)
    names = named(impact=impact_name, depth="evaporating")
    parts = {
        "market": Mirror(market.GeometricBrownian(9.6 * scale), np.asarray(side)),
        "book": GivenBook(np.full(60, side * UNITS / 60), (long if side > 0 else short) * UNITS / 60),
        "margin": margin.Flat(0.02, 0.02),
        "liquidation": liquidation.Full(0.0),
        "waterfall": waterfall.Waterfall(deleverage="none"),
        "positions": kernel,
    }
    return simulate(scenario(names, **parts).build(np.float64), paths=128, chunk=128)


def assert_mirror(impact_name, kernel):
    up, down = (mirrored(side, impact_name, kernel) for side in (1.0, -1.0))
    assert (up["liquidated_share"] > 0).mean() > 0.5
    for one, other in (("liquidated_share",) * 2, ("market_fall", "market_rise"), ("market_rise", "market_fall")):
        np.testing.assert_allclose(up[one], down[other], rtol=0, atol=1e-11)
    np.testing.assert_allclose(up["final_log_price"], -down["final_log_price"], rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "kernel", [SortedLadder(), pytest.param(Accounts(), marks=pytest.mark.slow)], ids=["ladder", "accounts"]
)
def test_shorts_are_longs_in_a_mirror(kernel):
    """Shorts under -r are closed when longs are under r, and the price is the mirror image: exact in log price.

    Drift of the law is part of r. Thresholds, impact and depth are symmetric in log price; money is not.
    """
    assert_mirror("square root", kernel)


@pytest.mark.slow
@pytest.mark.parametrize("impact_name", [n for n in SYMMETRIC_IMPACTS if n != "square root"])
def test_every_symmetric_impact_law_is_its_own_mirror(impact_name):
    assert set(SYMMETRIC_IMPACTS) | {"constant product"} == set(IMPACTS)
    assert_mirror(impact_name, SortedLadder())


SINGLE = one_at_a_time()


@pytest.mark.slow
@pytest.mark.parametrize("names", SINGLE, ids=ids(SINGLE))
def test_every_component_in_the_base_scenario(names, monkeypatch):
    """Money, order, one trace and precision for one component at a time, and its bits over chunks in single precision."""
    for dtype in (np.dtype("float32"), np.dtype("float64")):
        assert_money_adds_up(result(key(names), dtype), dtype)
        assert_order_of_accounts_is_nothing(key(names), dtype)
        with monkeypatch.context() as patch:
            assert_one_trace(key(names), dtype, patch)
    test_float32_agrees_with_float64(names)
    assert_chunks_change_no_bit(names, np.dtype("float32"))
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.parametrize("names", ROWS, ids=range(len(ROWS)))
def test_every_replay_has_the_same_bits(names):
    """Recorded, replayed and drawn noise, with every component in one of the scenarios."""
    assert_replay_is_the_same(names, np.dtype("float32"))
    jax.clear_caches()
