"""Numbers of a scenario by dotted key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import BREAKERS, brackets, covering, scenario

from tailrisk._fields import InputError, problems
from tailrisk.leaves import current, find, numbers, with_parameters


def venue():
    return scenario(covering()[2], breaker=BREAKERS["all of"](), margin=brackets())


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.mark.parametrize("names", covering(), ids=lambda names: names["market"])
def test_every_number_is_reached_and_moves_alone(names):
    """A number set to what it is changes nothing; set to another it is that, and nothing else moves."""
    made = scenario(names)
    keys = numbers(made)
    floating = [leaf for leaf in jax.tree.leaves(made) if np.issubdtype(np.asarray(leaf).dtype, np.floating)]
    aliases = [key for key in keys if key.endswith("initial_rates")]
    assert len(keys) - len(aliases) == len(floating)
    for key in keys:
        value = current(made, key)
        assert same(with_parameters(made, {key: value}), made) or key in aliases  # 1 / (1 / x) may differ by a digit
        moved = with_parameters(made, {key: 1.5 * value + 1.0})
        np.testing.assert_allclose(current(moved, key), 1.5 * value + 1.0)
        apart = [not same(a, b) for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(moved), strict=True)]
        assert sum(apart) == bool(np.isfinite(value).any())  # infinity stays what it is


def test_entries_of_tables_and_items_of_lists():
    made = venue()
    assert current(made, "margin.maintenance_rates.2") == 0.025
    assert current(made, "margin.maintenance_rates.0.2") == 0.025
    assert current(made, "margin.initial_rates.1") == 1.0 / 50.0
    assert current(made, "breaker.breakers.0.threshold") == 0.06
    moved = with_parameters(
        made, {"margin.maintenance_rates.2": 0.03, "margin.initial_rates.3": 0.2, "breaker.breakers.1.volume": 1e6}
    )
    np.testing.assert_array_equal(moved.margin.maintenance_rates, [[0.004, 0.01, 0.03, 0.05]])
    np.testing.assert_allclose(moved.margin.max_leverage, [[100.0, 50.0, 20.0, 5.0]])
    assert moved.breaker.breakers[1].volume == 1e6
    assert made.margin.maintenance_rates[0, 2] == 0.025
    assert not list(problems(moved))
    counted = with_parameters(made, {"positions.clearing.rounds": 3})
    assert counted.positions.clearing.rounds == 3
    assert find(made, "positions.clearing.rounds").whole


def test_a_traced_entry_has_its_derivative():
    made = venue()
    total = lambda rate: jnp.sum(with_parameters(made, {"margin.maintenance_rates.2": rate}).margin.maintenance_rates)  # noqa: E731
    leverage = lambda rate: jnp.sum(with_parameters(made, {"margin.initial_rates.2": rate}).margin.max_leverage)  # noqa: E731
    assert jax.jvp(total, (jnp.asarray(0.02),), (jnp.asarray(1.0),))[1] == 1.0
    np.testing.assert_allclose(jax.jvp(leverage, (jnp.asarray(0.05),), (jnp.asarray(1.0),))[1], -400.0)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("margin.maintenence_rates", "did you mean 'maintenance_rates'?"),
        ("marjin.floors", "the scenario (Scenario) has no 'marjin'; did you mean 'margin'?"),
        ("margin", "is a table, Brackets"),
        ("margin.style", "is 'bracket', expected the key of a number"),
        ("margin.floors.9", "its table is a list of 4"),
        ("margin.floors.1.1.1", "leads into a number"),
        ("breaker.breakers.7.threshold", "is a list of 2"),
        ("breaker.breakers.0.xyz", "its numbers are threshold"),
        ("waterfall.backstop", "is None"),
        ("observed", "is False"),
        ("price.0.0", "leads into a number"),
    ],
)
def test_a_key_to_nowhere_is_said_so(key, said):
    with pytest.raises(InputError) as caught:
        current(venue(), key)
    assert str(caught.value).startswith(f"{key}: ")
    assert said in str(caught.value)


def test_the_count_of_numbers_must_fit():
    with pytest.raises(InputError, match=r"margin.floors: got 2 number\(s\), expected 4"):
        with_parameters(venue(), {"margin.floors": [0.0, 1.0]})
