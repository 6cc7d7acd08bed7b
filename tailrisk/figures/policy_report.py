"""The page of a tuned policy as Markdown, from `policy.json` and nothing else."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

_VERDICT = {
    "certified": "CERTIFIED",
    "not_certified": "NOT CERTIFIED: a limit is missed by its upper bound on fresh paths",
    "refused": "REFUSED: too few losses were seen to bound every constraint",
}
_SEARCH = {
    "converged": "the search converged",
    "infeasible": "INFEASIBLE: no policy was found that meets every limit; this one misses them least",
    "budget_exhausted": "NOT CONVERGED: a cheaper policy is in reach; give tune.evaluations more",
    "not_finite": "NOT FINITE: the model gave numbers that are not",
}
_VARIANTS = {0.5: "conservative", 1.0: "moderate", 2.0: "aggressive"}


def format_policy(policy: dict[str, Any]) -> str:
    """What was tuned, what it costs, whether it holds, what limits cost, and how it stands beside others."""
    parts = [
        _verdict(policy),
        _parameters(policy),
        _searches(policy),
        _constraints(policy),
        _costs(policy),
        _prices(policy),
        _conditions(policy),
        _sensitivities(policy),
        _gradients(policy),
        _front(policy),
        _robustness(policy),
        _surface(policy),
        _baselines(policy),
        _made(policy),
    ]
    return "\n".join(line for part in parts for line in part)


def _number(value: Any, digits: int = 4) -> str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "-"
    return f"{value:.{digits}g}"


def _estimate(value: float | None, error: float | None) -> str:
    return "-" if value is None or error is None else f"{_number(value)} ± {_number(1.96 * error, 2)}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A Markdown table whose columns line up in plain text too."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]

    def shown(line: list[str]) -> str:
        first, *others = zip(line, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    yield shown(lines[0])
    yield "|" + "|".join(("-" * (w + 1) + ":") if k else "-" * (w + 2) for k, w in enumerate(widths)) + "|"
    yield from map(shown, lines[1:])
    yield ""


def _verdict(policy: dict[str, Any]) -> Iterator[str]:
    name = "Tuned policy" if policy["tuned_policy"] else "Policy"
    yield f"# {name}: {_VERDICT[policy['status']]} (joint level {policy['level']:.0%}); {_SEARCH[policy['search']]}"
    yield ""


def _parameters(policy: dict[str, Any]) -> Iterator[str]:
    rows = [[name, str(value), "-", "-"] for name, value in policy["choice"].items()]
    for name, value in policy["parameters"].items():
        before = policy["before_rounding"][name]
        shown, exact = (", ".join(_number(v, 6) for v in np.ravel(x)) for x in (value, before))
        rows.append([name, shown, exact, _number(policy["grid"][name])])
    yield from _table(["number", "policy", "before rounding", "grid"], rows)


def _searches(policy: dict[str, Any]) -> Iterator[str]:
    if len(policy["searches"]) < 2:
        return
    yield f"Coarse searches on {policy['paths']['coarse']:,} paths, of which the best was refined"
    yield ""
    rows = [
        [
            ", ".join(f"{key} = {value}" for key, value in one["choice"].items()) or "-",
            str(one["start"] + 1),
            _number(one["cost"], 5),
            f"{one['violation']:+.1%}",
        ]
        for one in policy["searches"]
    ]
    yield from _table(["choice", "start", "cost", "worst limit"], rows)


def _constraints(policy: dict[str, Any]) -> Iterator[str]:
    attempt = policy["attempts"][-1]
    yield f"Constraints (shares of the book; fresh: {attempt['paths']:,} paths, attempt {len(policy['attempts'])})"
    yield ""
    rows = []
    for name, row in policy["fresh"].items():
        tuning = policy["tuning"][name]
        rows.append(
            [
                name,
                _number(row["limit"]),
                _number(policy["incumbent"][name]["estimate"]),
                "-"
                if policy["soft"] is None
                else _estimate(*(policy["soft"][name][k] for k in ("estimate", "std_error"))),
                f"{_number(tuning['estimate'])} ± {_number(1.96 * tuning['std_error'], 2)}",
                _number(row["estimate"]),
                _number(row["upper_bound"]),
                _number(row["effective_hits"], 3),
                "pass" if row["passed"] else row["note"] or "fail",
            ]
        )
    head = ["constraint", "limit", "incumbent", "smooth twin", "tuning paths", "fresh paths", "upper bound", "hits", ""]
    yield from _table(head, rows)


def _costs(policy: dict[str, Any]) -> Iterator[str]:
    cost, split = policy["cost"], policy["cost_split"]
    yield (
        f"Cost {cost['fresh']:.5g} on fresh paths ({cost['before_rounding']:.5g} before rounding, tuning paths); "
        f"incumbent {cost['incumbent']:.5g}."
    )
    yield ""
    rows = [
        [name, _number(price), _number(split["policy"][name], 5), _number(split["incumbent"][name], 5)]
        for name, price in policy["prices"].items()
    ]
    yield from _table(["part of the cost", "price", "policy", "incumbent"], rows)


def _prices(policy: dict[str, Any]) -> Iterator[str]:
    yield "What a limit costs: basis points of the book in cost for one basis point (or 0.01 %) of the limit"
    yield ""
    rows = [
        [
            name,
            "yes" if row["binding"] else "no",
            _estimate(row["price"], row["std_error"]),
            _estimate(row["smooth"], row["smooth_error"]),
            _number(row["along_front"]),
        ]
        for name, row in policy["shadow_prices"].items()
    ]
    yield from _table(["constraint", "binds", "by multipliers", "smooth twin", "along the front"], rows)


def _conditions(policy: dict[str, Any]) -> Iterator[str]:
    found = policy["conditions"]
    yield (
        f"Optimality: the projected gradient is {found['residual']:.3%} of the cost per 10 % of the numbers (that of the "
        f"cost alone {found['cost_gradient']:.2%}, sampling noise {found['noise']:.3%}, tolerance {found['tolerance']:.2%})."
    )
    slack = ", ".join(f"{name} {_number(value, 2)}" for name, value in found["complementarity"].items())
    yield f"Multiplier x slack, share of the cost: {slack}."
    touched = [item["bound"] for item in found["touched"]]
    touched += [label for label in policy["touched_after_rounding"] if label not in touched]
    yield f"Bounds and orders that are touched: {'; '.join(touched) or 'none'}."
    idle = ", ".join(found["unidentified"])
    yield f"Not identified (moving it by 5 % changes neither the cost nor a limit measurably): {idle or 'none'}."
    yield ""


def _sensitivities(policy: dict[str, Any]) -> Iterator[str]:
    names = list(policy["fresh"])
    smooth = any("smooth" in row["cost"] for row in policy["sensitivities"])
    yield "Derivatives per 10 % of a number: cost in basis points of the book, limits in % of the limit (± 1.96 s.e.)"
    if smooth:
        yield "by differences of the deciding model / by the gradient of its smooth twin, * where they disagree"
    yield ""

    def cell(entry: dict[str, Any], scale: float) -> str:
        if entry["difference"] is None or not np.isfinite(entry["difference"]):
            return "held"
        text = f"{scale * entry['difference']:.3g} ± {scale * 1.96 * entry['std_error']:.2g}"
        if "smooth" in entry:
            smooth, error = scale * entry["smooth"], scale * 1.96 * entry["smooth_error"]
            text += f" / {smooth:.3g} ± {error:.2g}" + ("" if entry["agree"] else " *")
        return text

    rows = [
        [row["number"], row["gradient"], cell(row["cost"], 1e4), *(cell(row[name], 100.0) for name in names)]
        for row in policy["sensitivities"]
    ]
    yield from _table(["number", "gradient", "cost", *names], rows)


def _gradients(policy: dict[str, Any]) -> Iterator[str]:
    if not policy["gradients"]:
        return
    yield "Audit of gradients of expected bad debt (USD per unit of the number): the estimator that is chosen, differences on"
    yield "fresh noise (± 1.96 s.e.), and how many standard errors they are apart"
    yield ""
    rows = [
        [
            row["parameter"],
            row["method"],
            _estimate(row["estimate"], row["std_error"]),
            _estimate(row["reference"], row["reference_error"]),
            _number(row["z"], 2),
            "pass" if row["passed"] else "FAIL",
        ]
        for row in policy["gradients"]
    ]
    yield from _table(["number", "method", "estimate", "differences", "apart", ""], rows)


def _front(policy: dict[str, Any]) -> Iterator[str]:
    if not policy["front"]:
        return
    (moderate,) = [p["limit"] for p in policy["front"] if p["cost"] == policy["cost"]["tuning"]][:1]
    yield "Front: the first-named limit moved, every point searched from its neighbor and certified"
    yield ""
    rows = []
    for point in policy["front"]:
        factor = point["limit"] / moderate
        rows.append(
            [
                f"x {factor:.3g} {_VARIANTS.get(round(factor, 6), '')}".strip(),
                _number(point["limit"]),
                _number(point["cost_before_rounding"], 5),
                _number(point["cost"], 5),
                _number(point["fresh"]),
                _number(point["upper_bound"]),
                point["certificate"].replace("_", " "),
                _estimate(point["price"], point["price_error"]),
                _number(point["slope"]),
            ]
        )
    head = ["target", "limit", "cost", "on the grid", "fresh paths", "upper bound", "certificate", "price", "slope"]
    yield from _table(head, rows)


def _robustness(policy: dict[str, Any]) -> Iterator[str]:
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
    yield from _table(["world", *names], rows)


def _surface(policy: dict[str, Any]) -> Iterator[str]:
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
    yield from _table(["", *columns], ([row, *(shown(cells[row, column]) for column in columns)] for row in rows))


def _baselines(policy: dict[str, Any]) -> Iterator[str]:
    table = policy["baselines"]
    if table is None:
        return
    names = list(policy["fresh"])
    yield (
        f"Margin rules on {table['paths']:,} common paths. Difference: bad debt at equal cost, cost at equal risk, rule less "
        "policy in basis points of the book, 95 % paired"
    )
    yield ""
    rows = []
    for row in table["rules"]:
        if "note" in row:
            rows.append([row["rule"], row["equal"], "-", "-", *("-" for _ in names), "-", row["note"]])
            continue
        apart, (low, high) = row["apart"], row["apart95"]  # null for what stands on its own
        rows.append(
            [
                row["rule"],
                row["equal"],
                _number(row["scale"], 3),
                f"{row['cost']:.5g}",
                *(_number(row[n]) for n in names),
                f"{row['peak_to_trough']:.2f}",
                "-" if apart is None else f"{1e4 * apart:.3g} ({1e4 * low:.3g} to {1e4 * high:.3g})",
            ]
        )
    yield from _table(["rule", "equal", "scale", "cost", *names, "peak/trough", "difference"], rows)


def _made(policy: dict[str, Any]) -> Iterator[str]:
    made = policy.get("made")
    if made:
        yield (
            f"tailrisk {made['version']}, seed {made['seed']}, {made['device']}, {made['precision']}, "
            f"{policy['paths']['tuning']:,} tuning paths, {made['seconds']:.0f} s, {made['processor_seconds']:.0f} s of "
            "one core."
        )
