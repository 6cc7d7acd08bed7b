"""The rivals of the benchmarks compute what we compute; a benchmark refuses to time programs that do not agree."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk import bench
from tailrisk.bench import counts, gradient_cases, gradients, limits, speed_report, tail_rows, tail_scenario, tails
from tailrisk.bench.models import ladder_scenario
from tailrisk.bench.timing import Timing, disagreements, race, save
from tailrisk.simulate import simulate


@pytest.mark.parametrize(
    ("name", "paths", "groups"), [("ladder", 1024, 500), ("accounts", 256, 64), ("normals", 2048, 0)]
)
@pytest.mark.slow
def test_rivals_agree(name, paths, groups):
    if name != "normals":
        pytest.importorskip("numba")
    entry = bench.prepare(name, groups)
    outcomes, _ = race(entry.contestants, paths, 1.0, 1)
    assert next(iter(outcomes)) == "tailrisk"
    assert disagreements(outcomes) == []
    for result in outcomes.values():
        for value in result.values():
            assert value.shape == (paths,)
            assert value.std() > 0
    if name != "normals":  # the check can fail: the error of the mean is small
        value = outcomes["tailrisk"]["forced_notional"]
        assert value.std() / value.mean() / paths**0.5 < 0.1


def test_a_wrong_rival_is_not_timed(monkeypatch, capsys):
    """Means 1 apart with errors of 0.03."""
    rng = np.random.default_rng(0)
    contestants = {
        "tailrisk": lambda paths, seed: {"bad_debt": rng.normal(0.0, 1.0, paths)},
        "rival": lambda paths, seed: {"bad_debt": rng.normal(1.0, 1.0, paths)},
    }
    monkeypatch.setattr(bench, "prepare", lambda name: bench.Race(contestants, 1000, 1.0, "paths"))
    assert bench.run_bench("normals") == 1
    said = capsys.readouterr()
    assert "bad_debt" in said.err
    assert "/s" not in said.out


def test_a_race_is_written_down(monkeypatch, tmp_path, capsys):
    rng = np.random.default_rng(0)
    contestants = {who: lambda paths, seed: {"bad_debt": rng.normal(0.0, 1.0, paths)} for who in ("tailrisk", "rival")}
    monkeypatch.setattr(bench, "prepare", lambda name: bench.Race(contestants, 1000, 1.0, "paths"))
    assert bench.run_bench("normals", repeats=2, out=tmp_path) == 0
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["normals"]["rival"]["rate"] > 0
    assert len(written["normals"]["rival"]["rates"]) == 2
    assert (tmp_path / "bench.png").stat().st_size > 0
    assert "machine" in written
    assert "rival" in capsys.readouterr().out


def test_loops_are_counted_as_often_as_they_turn():
    """7 turns; inside them 0 + 1 + ... + 6 products in a loop on data, and one product more in the 3 odd turns.

    XLA counts 2 n^3 operations a product, and 2 products in all: one for the loop, one for the dearer branch.
    """
    n = 64
    product = 2 * n**3

    @jax.jit
    def turn(x, i):
        more = lambda c: c[0] < i  # noqa: E731
        x = jax.lax.while_loop(more, lambda c: (c[0] + jnp.int32(1), jnp.dot(c[1], c[1])), (jnp.int32(0), x))[1]
        return jax.lax.cond(i % jnp.int32(2) == 1, lambda x: jnp.dot(x, x), lambda x: x, x), None

    def program(x, turns):
        return jax.lax.scan(turn, x, turns)[0]

    given = jnp.eye(n, dtype=jnp.float32), jnp.arange(7, dtype=jnp.int32)
    cost = counts.count(program, *given)
    assert cost.operations == pytest.approx((21 + 3) * product, rel=1e-3)
    assert cost.transcendentals == 0.0
    assert 2 * 24 * 4 * n**2 < cost.bytes < 7 * 24 * 4 * n**2  # a product reads and writes n^2 numbers; branches copy
    compiled = jax.jit(program).lower(*given).compile().cost_analysis()
    assert compiled["flops"] == pytest.approx(2 * product, rel=1e-3)


def test_nearness_is_the_time_at_the_limit():
    """1e6 units of 100 operations, 1 exponential, 10 bytes and 2 normals, at 1e5 units a second."""
    most = limits.Limits(operations=1e8, transcendentals=1e6, bytes=4e6, normals=1e6)
    found = limits.used(counts.Cost(1e8, 1e6, 1e7), 1e6, 2e6, 1e5, most)
    assert found[:4] == pytest.approx((100.0, 1.0, 10.0, 2.0))
    assert (found.arithmetic, found.memory, found.noise) == pytest.approx((0.2, 0.25, 0.2))
    assert "memory at most 25.0%" in speed_report.limits("units", found, most)


def test_a_race_is_drawn():
    """Every repeat, the median, and how many times faster ours is, on a logarithmic axis."""
    race_ = {"tailrisk": Timing(4e6, 2e6, 2.0, 1.0, (3e6, 4e6, 5e6)), "numba": Timing(8e6, 4e6, 2.0, 1.0, (8e6,) * 3)}
    figure = speed_report.draw({"ladder": race_, "normals": race_}, {"ladder": "path-steps", "normals": "normals"})
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "log"]
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said == ["4M", "8M; ours 0.5x"]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [3e6, 4e6, 5e6]


def test_missing_numba_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    assert bench.run_bench("ladder") == 2
    assert "tailrisk-jax[compare]" in capsys.readouterr().err


def test_unknown_benchmark_is_bad_input():
    with pytest.raises(ValueError, match="ladder, accounts, normals"):
        bench.run_bench("laddder")


def row(kind, apart, accepted=False, name="x"):
    numbers = {field.name: 0.0 for field in dataclasses.fields(gradients.Row) if field.type in (float, "float")}
    given = {"estimator": name, "kind": kind, "parameter": "m", "accepted": accepted, "verdict": "", "paths": 1}
    return gradients.Row(**numbers | given | {"apart": apart})


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row("unbiased", 3.9, True), row("biased", 9.0, True), row("control", -np.inf)], None),
        ([row("unbiased", -4.1, True)], "-4.1 standard errors"),
        ([row("control", 9.0, True)], "was accepted"),
        ([row("control", 3.0), row("control", -2.0)], "nothing shows"),
        ([row("control", 3.0), row("control", -5.0)], None),
    ],
)
def test_what_a_benchmark_of_gradients_refuses(rows, said):
    """Estimators that are unbiased by theorem and are not seen to be, and controls that are not seen to be wrong."""
    lines = gradients.failures(rows)
    assert (len(lines) == 0) if said is None else (said in lines[0])


@pytest.mark.parametrize(
    ("ratio", "said"), [(0.6, "met"), (0.7, "missed, within error"), (0.9, "missed"), (np.nan, "missed")]
)
def test_verdict_knows_its_error(ratio, said):
    assert gradients.verdict(ratio, 0.05, 0.65) == said


def test_verdict_names_a_goal_that_is_missed():
    assert gradients.verdict(0.5, 0.05, 0.65, 0.55) == "met"
    assert gradients.verdict(0.6, 0.05, 0.65, 0.3) == "met, goal 0.3: missed"


def test_no_target_no_verdict():
    assert gradients.verdict(0.5, 0.1, np.nan) == ""


def test_targets_are_of_rows():
    """Every target belongs to an estimator of a case, and every parameter of a case has its yardstick."""
    cases = gradient_cases.cases()
    known = {(case.title, entry.name, name) for case in cases for entry in case.entries for name in entry.parameters}
    assert gradient_cases.GOALS.keys() <= gradient_cases.TARGETS.keys() <= known
    for case in cases:
        measured = {
            name for entry in case.entries if entry.name == gradient_cases.YARDSTICK for name in entry.parameters
        }
        assert {title_name[2] for title_name in gradient_cases.TARGETS if title_name[0] == case.title} <= measured


def test_the_control_is_judged_on_top_of_its_tilt():
    """Gains 2e4 and 3e5 with errors of a tenth and a fifth: 15 +- 3.4, and what is missed is called missed."""
    rows = [tail_row(reference="accounts", gain=gain, gain_error=error) for gain, error in ((2e4, 2e3), (3e5, 6e4))]
    found = tails.control([tail_row(), *rows])
    assert found["gain"] == pytest.approx(15.0)
    assert found["gain_error"] == pytest.approx(15.0 * 0.05**0.5)
    assert found["verdict"] == "met"
    rows[1] = dataclasses.replace(rows[1], gain=1.4e5, gain_error=1e3)
    assert tails.control(rows)["verdict"] == "missed"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, []),
        ({"refused": "tail_index"}, ["tail_index"]),
        ({"plain_value": 1.7}, ["1 by weighted paths, 1.7 by plain ones"]),
        ({"gain": 0.9}, ["gain 0.9 per processor second, 1 is wanted"]),
        ({"value": np.nan, "gain": np.nan}, ["nan by weighted paths", "gain nan"]),
    ],
)
def test_what_a_shipped_tail_must_hold(given, said):
    numbers: dict = {f.name: 1.0 for f in dataclasses.fields(tail_scenario.Row) if f.type in (float, "float")}
    rest: dict = {
        "std_error": 0.1,
        "plain_std_error": 0.1,
        "paths": 1,
        "plain_paths": 1,
        "tuning_paths": 0,
        "refused": "",
    }
    lines = tail_scenario.Row(**numbers | rest | given).failures()
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))


def test_a_number_that_is_none_is_null_in_a_file(tmp_path):
    save(tmp_path / "new", "bench.json", {"error": float("nan"), "gain": np.float64(2.0), "rows": [{"value": np.inf}]})
    text = (tmp_path / "new" / "bench.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"error": None, "gain": 2.0, "rows": [{"value": None}]}


def tail_row(**given):
    numbers = {field.name: 1.0 for field in dataclasses.fields(tails.Row) if field.type in (float, "float")}
    words = {
        "name": "x",
        "reference": "hit",
        "per": "path",
        "verdict": "",
        "paths": 1,
        "tuning_paths": 0,
        "refused": "",
    }
    return tails.Row(**numbers | words | given)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([tail_row(std_error=0.1), tail_row(value=1.3, std_error=0.1)], None),
        ([tail_row(std_error=0.1), tail_row(value=1.7, std_error=0.1)], "1.7, x says 1 +- 0.14"),
        ([tail_row(std_error=0.1), tail_row(value=1.7, std_error=0.1, reference="other")], None),
        ([tail_row(verdict="missed", gain=3.0, target=9.0)], "gain 3, 9 is wanted"),
        ([tail_row(verdict="missed, within error")], None),
        ([tail_row(refused="tail_index")], "tail_index"),
        ([tail_row(), tail_row(value=np.nan)], "nan"),
    ],
)
def test_what_a_benchmark_of_tails_refuses(rows, said):
    """Gains that are missed, refused estimates, and rows of one number that do not agree."""
    lines = tails.failures(rows)
    assert (len(lines) == 0) if said is None else (said in lines[0])


@pytest.mark.parametrize(("gain", "said"), [(30.0, "met"), (25.0, "missed, within error"), (10.0, "missed")])
def test_a_gain_knows_its_error(gain, said):
    assert tails.verdict(gain, 5.0, 30.0) == said
    assert tails.verdict(gain, 5.0, np.nan) == ""


@pytest.mark.slow
def test_a_program_is_slower_than_its_limits():
    """An hour of a small ladder: no share above one, and the noise of a step is one normal."""
    system = dataclasses.replace(ladder_scenario(200), horizon="1h").build(np.float32)
    entry = bench.Race({}, 1, system.steps, "path-steps", system, 1_024)
    seconds = limits.seconds(lambda: simulate(system, paths=16_384, seed=1, chunk=1_024))
    rate = 16_384 * system.steps / seconds
    used, most = bench.nearness(entry, Timing(rate, rate, 1.0, 0.0, (rate,)))
    assert min(most) > 1e6
    assert used.normals == 1.0
    assert 100.0 < used.operations < 1e5
    assert 0.0 < max(used.arithmetic, used.memory, used.noise) < 1.0


@pytest.mark.slow
def test_rivals_of_limit_states():
    """Ours and theirs on the intersection of two events: the same number, and ours with the smaller error."""
    pytest.importorskip("openturns")
    from tailrisk.bench import static_rivals

    ours = static_rivals.contest("RP25", "ours, lobes", 8)
    assert (ours.given, ours.covered >= 6, ours.error < 0.05, ours.evaluations < 21_000) == (8, True, True, True)
    theirs = static_rivals.contest("RP25", "OpenTURNS, subset simulation", 8)
    assert ours.error < theirs.error < 0.5


@pytest.mark.slow
def test_entries_of_a_benchmark_run():
    """One of every kind of row, small: it gives a value or says why not."""
    kinds = {}
    for entry in tail_rows.entries():
        kinds.setdefault((type(entry.method), type(entry.wanted)), entry)
    for entry in kinds.values():
        row = tails.measure(entry, 2_000, 2)
        assert row.value > 0.0 or row.refused, row
