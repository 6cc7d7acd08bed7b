"""How numbers enter the typed tree: conversion, bounds by dotted key, casting."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk._fields import (
    SECONDS_PER_YEAR,
    Bounds,
    Real,
    cast,
    choice,
    count,
    duration,
    flag,
    parse_duration,
    problems,
    real,
    to_duration,
    to_real,
)

MINUTE = 60.0 / SECONDS_PER_YEAR


class Leg(eqx.Module):
    rate: Real = real(0.1, unit="1", least=0.0, below=1.0)
    wait: Real = duration("5min")


class Whole(eqx.Module):
    size: Real = real(unit="USD", above=0.0)
    cap: Real = real(np.inf, unit="USD", above=0.0, infinite=True)
    legs: tuple[Leg, ...] = ()
    leg: Leg = eqx.field(default_factory=Leg)
    rounds: int = count(8, least=1, most=10)
    rule: str = choice("mean", "mean", "median")
    on: bool = flag(False)

    def check(self):
        if float(np.max(self.size)) > 100.0:
            yield "size", "is above 100; take less"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        *(("5min", 5), ("90 s", 1.5), (" 2 h ", 120), ("1d", 1440), ("1w", 10080), ("1.5h", 90), ("1.min", 1)),
        *((".5min", 0.5), ("6e1s", 1), ("500ms", 1 / 120), ("1y", 525600), ("1year", 525600), ("30sec", 0.5)),
        *(("0s", 0), ("inf d", np.inf)),
    ],
)
def test_durations(text, minutes):
    assert parse_duration(text) == pytest.approx(minutes * MINUTE, rel=1e-15)
    assert to_duration(text).dtype == np.float64


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("5 mim", "'mim'.*did you mean 'min'"),
        ("5", "unit ''.*ms, s"),
        ("1.2.3min", "not a duration"),
        ("-5min", 'not a duration.*"5min"'),
        ("", "not a duration"),
        ("soon", "not a duration"),
        (5, '5 has no unit.*"5min"'),
        (True, "no unit"),
        (["1min", 5], "5 has no unit"),
        (["1min", "5 mim"], "'mim'"),
        ({"a": 1}, "expected a number"),
    ],
)
def test_wrong_durations(value, words):
    with pytest.raises(ValueError, match=words):
        to_duration(value)


def test_lists_of_durations():
    """Lists of texts, times that are traced, and arrays in years."""
    for value in (["1min", "60min"], ("1min", "60min"), np.array([MINUTE, 60 * MINUTE])):
        np.testing.assert_allclose(to_duration(value), [MINUTE, 60 * MINUTE], rtol=1e-15)
    assert to_duration(["inf d"]).tolist() == [np.inf]
    traced = jax.jit(lambda t: to_duration(["1min", t]))(jnp.asarray(2 * MINUTE))
    np.testing.assert_allclose(traced, [MINUTE, 2 * MINUTE], rtol=1e-15)
    leg = Leg(wait=["1s", "2s"])
    assert leg.wait.shape == (2,)
    assert not list(problems(leg))


@pytest.mark.parametrize("value", ["text", True, None, {"a": 1}, ["a"], [[1.0], [1.0, 2.0]], 1j])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="expected a number or an array of numbers"):
        to_real(value)


def test_numbers_become_float64_arrays_and_tracers_pass():
    whole = Whole(size=[1, 2])
    assert isinstance(whole.size, np.ndarray)
    assert whole.size.dtype == np.float64
    assert jax.jit(lambda x: Whole(size=x).size)(jnp.float32(3.0)) == 3.0
    assert Whole(1.0, rounds=3.0).rounds == 3


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "expected"),
    [
        ({"above": 0.0}, 1e-9, 0.0, "a value > 0"),
        ({"least": 0.0, "most": 1.0}, [0.0, 1.0], [0.5, 1.1], "a value >= 0 and <= 1"),
        ({"below": 1.0}, -5.0, 1.0, "a value < 1"),
        ({}, -1e300, np.nan, "a number, not nan"),
        ({}, 0.0, -np.inf, "a finite number"),
        ({"above": 0.0, "infinite": True}, np.inf, -np.inf, "a value > 0"),
    ],
)
def test_bounds(bounds, good, bad, expected):
    assert Bounds(**bounds).broken(np.asarray(good)) is None
    assert Bounds(**bounds).broken(np.asarray(bad)) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rounds": 0}, "from 1 to 10, got 0"),
        ({"rounds": 11}, "from 1 to 10, got 11"),
        ({"rounds": 2.5}, "whole number, got 2.5"),
        ({"rounds": np.inf}, "whole number, got inf"),
        ({"rounds": np.nan}, "whole number, got nan"),
        ({"rounds": True}, "whole number, got True"),
        ({"rounds": "many"}, "whole number, got 'many'"),
        ({"rule": "medain"}, "did you mean 'median'"),
        ({"rule": 5}, "expected one of mean, median, got 5"),
        ({"on": "yes"}, "expected true or false, got 'yes'"),
    ],
)
def test_structural_fields(given, words):
    with pytest.raises(ValueError, match=words):
        Whole(1.0, **given)


def test_problems_by_dotted_key():
    """Every value out of bounds, wherever it is; a component's own check only when its values are in bounds."""
    tree = Whole(-1.0, legs=(Leg(), Leg(rate=1.0)), leg=Leg(wait="0s"))
    assert list(problems(tree, "venue")) == [
        "venue.size = -1. [USD]: expected a value > 0",
        "venue.legs[1].rate = 1. [1]: expected a value >= 0 and < 1",
        "venue.leg.wait = 0. [year]: expected a value > 0",
    ]
    assert list(problems(Whole(200.0), "venue")) == ["venue.size: is above 100; take less"]
    assert list(problems(Whole(200.0))) == ["size: is above 100; take less"]
    assert not list(problems(Whole(20.0)))
    assert not jax.jit(lambda x: jnp.asarray(len(list(problems(Leg(rate=x))))))(
        2.0
    )  # a traced value is nobody's problem


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cast(dtype):
    """Real leaves take the precision of the run and are never weak; whole numbers and switches stay."""
    tree = cast({"tree": Whole([1.0, 2.0]), "index": np.arange(3), "mask": np.array([True])}, dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(tree["tree"])} == {np.dtype(dtype)}
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(tree["tree"]))
    assert tree["index"].dtype == np.int64
    assert tree["mask"].dtype == bool
    assert tree["tree"].rounds == 8
