"""The part of a tuned policy's page that looks beyond its own world: other laws, the breaker, a real event, other rules."""

from collections.abc import Iterator
from typing import Any

from .markdown import estimate, number, table


def robustness(policy: dict[str, Any]) -> Iterator[str]:
    panel = policy["robustness"]
    if panel is None:
        return
    names = list(policy["fresh"])
    limits = {name: policy["fresh"][name]["limit"] for name in names}
    yield f"Robustness: constraint / limit on {panel['paths']:,} paths in worlds the policy was not tuned for"
    yield ""

    def shown(judged: dict[str, Any]) -> list[str]:
        return [f"{judged[n]['estimate'] / limits[n]:.2f}" + ("" if judged[n]["holds"] else " !") for n in names]

    rows = [["as tuned", *shown(panel["base"])]]
    if panel["draws"]:
        share = panel["share_of_draws"]
        rows.append([f"{panel['draws']} draws: share that hold", *(f"{share[n]['holds']:.0%}" for n in names)])
        rows.append(["worst draw in ten", *(f"{share[n]['worst_decile']:.2f}" for n in names)])
    rows += [[world, *shown(judged)] for world, judged in panel["worlds"].items()]
    yield from table(["world", *names], rows)


def halting(policy: dict[str, Any]) -> Iterator[str]:
    rows = policy["robustness"]["breaker"] if policy["robustness"] else []
    if not rows:
        return
    yield (
        f"The breaker on {policy['robustness']['paths']:,} common paths: with it less without it, basis points of the book "
        "(± 1.96 s.e.). False: halted"
    )
    yield "though the same path has no bad debt without a breaker. With impact off no halt gains on a price without trend"
    yield ""
    yield from table(
        [
            "world",
            "paths halted",
            "false",
            "of all halts",
            "time halted",
            "bad debt",
            "by fund",
            "by winners",
            "forced volume",
        ],
        [
            [
                row["world"],
                _share(row["halts"]),
                _share(row["false_halts"]),
                f"{row['false_halts']['value'] / row['halts']['value']:.0%}" if row["halts"]["value"] else "-",
                _times(100.0, row["time"]) + " %",
                *(_times(1e4, row[name]) for name in ("bad_debt", "fund_paid", "adl_profit", "forced")),
            ]
            for row in rows
        ],
    )
    yield from _trigger(rows)
    yield "Its reopenings, where the horizon sees one: how far the price after the auction is beyond the level that was hit (%,"
    yield "log, negative where it has come back), and the farthest from then on; bad debt of accounts whose order a halt held"
    yield "back (basis points of the book), those still waiting at the horizon included"
    yield ""
    yield from table(
        ["world", "paths reopened", "gap", "overshoot", "late bad debt"],
        [
            [
                row["world"],
                _share(row["trigger"]["reopened"]),
                *(_times(100.0, row["trigger"][name]) for name in ("gap", "overshoot")),
                _times(1e4, row["late_bad_debt"]),
            ]
            for row in rows
        ],
    )


def _trigger(rows: list[dict[str, Any]]) -> Iterator[str]:
    worlds = [row for row in rows if row["world"] in ("as tuned", "impact off")]
    by_distance = list(zip(*(row["trigger"]["by_distance"] for row in worlds), strict=True))
    if not by_distance:  # a throttle has no trigger
        return
    yield "Its trigger: P(hit) from within a distance, as tuned and with impact off: nobody trades ahead of a halt, so what draws"
    yield "the price there is forced sales"
    yield ""
    yield from table(
        ["distance", *(f"{row['world']}: {what}" for row in worlds for what in ("paths within", "hit"))],
        [
            [f"{one[0]['distance']:.2%}", *(_share(found[name]) for found in one for name in ("within", "hit"))]
            for one in by_distance
        ],
    )


def _share(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return "-"
    return f"{one['value']:.2%} ({one['ci95'][0]:.2%} to {one['ci95'][1]:.2%})"


def _times(scale: float, one: dict[str, Any]) -> str:
    """A scaled estimate; too few paths may carry it to say how far off it is."""
    if one["value"] is None:
        return "-"
    if one["std_error"] is None:
        return f"{number(scale * one['value'], 2)} (no interval)"
    return estimate(scale * one["value"], scale * one["std_error"])


def replay(policy: dict[str, Any]) -> Iterator[str]:
    replay = policy["replay"]
    if replay is None:
        return
    if replay["missing"]:
        yield f"Replay of {replay['event']}: SKIPPED, there is no price file {replay['missing']}"
        yield ""
        return
    yield (
        f"Replay of {replay['event']}: prices as they were, {replay['books']} draws of the book, shares of the book (± 1.96 "
        "s.e. between books)"
    )
    yield ""
    names = list(replay["rows"]["policy"])
    rows = [
        [name, *(estimate(row[name]["value"], row[name]["std_error"]) for row in replay["rows"].values())]
        for name in names
    ]
    yield from table(["outcome", *replay["rows"]], rows)


def surface(policy: dict[str, Any]) -> Iterator[str]:
    surface = policy["surface"]
    if surface is None:
        return
    name = next(iter(policy["fresh"]))
    limit = policy["fresh"][name]["limit"]
    yield (
        f"{surface['rows']} by {surface['columns']} on {surface['paths']:,} common paths: {name} less the policy's in % of the "
        "limit / cost less the policy's in basis points of the book (± 1.96 s.e.)"
    )
    yield ""
    columns = list(dict.fromkeys(str(cell["column"]) for cell in surface["cells"]))
    cells = {(str(cell["row"]), str(cell["column"])): cell for cell in surface["cells"]}

    def shown(cell: dict[str, Any]) -> str:
        risk, cost = cell[name], (1e4 * cell["cost"], 1.96e4 * cell["cost_error"])
        parts = (100.0 * risk["apart"] / limit, 196.0 * risk["std_error"] / limit, *cost)
        return "{:+.3g} ± {:.2g} / {:+.3g} ± {:.2g}".format(*parts)

    rows = dict.fromkeys(row for row, _ in cells)
    yield from table(["", *columns], ([row, *(shown(cells[row, column]) for column in columns)] for row in rows))


def baselines(policy: dict[str, Any]) -> Iterator[str]:
    compared = policy["baselines"]
    if compared is None:
        return
    names = list(policy["fresh"])
    yield (
        f"Margin rules on {compared['paths']:,} common paths. Difference: bad debt at equal cost, cost at equal risk, rule less "
        "policy in basis points of the book, 95 % paired"
    )
    yield ""
    rows = []
    for row in compared["rules"]:
        if "note" in row:
            rows.append([row["rule"], row["equal"], "-", "-", *("-" for _ in names), "-", row["note"]])
            continue
        apart, (low, high) = row["apart"], row["apart95"]  # null for what stands on its own
        rows.append(
            [
                row["rule"],
                row["equal"],
                number(row["scale"], 3),
                f"{row['cost']:.5g}",
                *(number(row[n]) for n in names),
                f"{row['peak_to_trough']:.2f}",
                "-" if apart is None else f"{1e4 * apart:.3g} ({1e4 * low:.3g} to {1e4 * high:.3g})",
            ]
        )
    yield from table(["rule", "equal", "scale", "cost", *names, "peak/trough", "difference"], rows)
