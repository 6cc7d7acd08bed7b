"""The page of a tuned policy as Markdown, from `policy.json` and nothing else."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import policy_worlds
from .markdown import estimate, number, table

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
        policy_worlds.robustness(policy),
        policy_worlds.halting(policy),
        policy_worlds.replay(policy),
        policy_worlds.surface(policy),
        policy_worlds.baselines(policy),
        _made(policy),
    ]
    return "\n".join(line for part in parts for line in part)


def _verdict(policy: dict[str, Any]) -> Iterator[str]:
    name = "Tuned policy" if policy["tuned_policy"] else "Policy"
    yield f"# {name}: {_VERDICT[policy['status']]} (joint level {policy['level']:.0%}); {_SEARCH[policy['search']]}"
    yield ""


def _parameters(policy: dict[str, Any]) -> Iterator[str]:
    rows = [[name, str(value), "-", "-"] for name, value in policy["choice"].items()]
    for name, value in policy["parameters"].items():
        before = policy["before_rounding"][name]
        shown, exact = (", ".join(number(v, 6) for v in np.ravel(x)) for x in (value, before))
        rows.append([name, shown, exact, number(policy["grid"][name])])
    yield from table(["number", "policy", "before rounding", "grid"], rows)


def _searches(policy: dict[str, Any]) -> Iterator[str]:
    if len(policy["searches"]) < 2:
        return
    yield f"Coarse searches on {policy['paths']['coarse']:,} paths, of which the best was refined"
    yield ""
    rows = [
        [
            ", ".join(f"{key} = {value}" for key, value in one["choice"].items()) or "-",
            str(one["start"] + 1),
            number(one["cost"], 5),
            f"{one['violation']:+.1%}",
        ]
        for one in policy["searches"]
    ]
    yield from table(["choice", "start", "cost", "worst limit"], rows)


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
                number(row["limit"]),
                number(policy["incumbent"][name]["estimate"]),
                "-"
                if policy["soft"] is None
                else estimate(*(policy["soft"][name][k] for k in ("estimate", "std_error"))),
                f"{number(tuning['estimate'])} ± {number(1.96 * tuning['std_error'], 2)}",
                number(row["estimate"]),
                number(row["upper_bound"]),
                number(row["effective_hits"], 3),
                "pass" if row["passed"] else row["note"] or "fail",
            ]
        )
    head = ["constraint", "limit", "incumbent", "smooth twin", "tuning paths", "fresh paths", "upper bound", "hits", ""]
    yield from table(head, rows)


def _costs(policy: dict[str, Any]) -> Iterator[str]:
    cost, split = policy["cost"], policy["cost_split"]
    yield (
        f"Cost {cost['fresh']:.5g} on fresh paths ({cost['before_rounding']:.5g} before rounding, tuning paths); "
        f"incumbent {cost['incumbent']:.5g}."
    )
    yield ""
    rows = [
        [name, number(price), number(split["policy"][name], 5), number(split["incumbent"][name], 5)]
        for name, price in policy["prices"].items()
    ]
    yield from table(["part of the cost", "price", "policy", "incumbent"], rows)


def _prices(policy: dict[str, Any]) -> Iterator[str]:
    yield "What a limit costs: basis points of the book in cost for one basis point (or 0.01 %) of the limit"
    yield ""
    rows = [
        [
            name,
            "yes" if row["binding"] else "no",
            estimate(row["price"], row["std_error"]),
            estimate(row["smooth"], row["smooth_error"]),
            number(row["along_front"]),
        ]
        for name, row in policy["shadow_prices"].items()
    ]
    yield from table(["constraint", "binds", "by multipliers", "smooth twin", "along the front"], rows)


def _conditions(policy: dict[str, Any]) -> Iterator[str]:
    found = policy["conditions"]
    yield (
        f"Optimality: the projected gradient is {found['residual']:.3%} of the cost per 10 % of the numbers (that of the "
        f"cost alone {found['cost_gradient']:.2%}, sampling noise {found['noise']:.3%}, tolerance {found['tolerance']:.2%})."
    )
    slack = ", ".join(f"{name} {number(value, 2)}" for name, value in found["complementarity"].items())
    yield f"Multiplier x slack, share of the cost: {slack}."
    touched = [item["bound"] for item in found["touched"]]
    touched += [label for label in policy["touched_after_rounding"] if label not in touched]
    yield f"Bounds and orders that are touched: {'; '.join(touched) or 'none'}."
    idle = ", ".join(found["unidentified"])
    yield f"Not identified (moving it by 5 % changes neither the cost nor a limit measurably): {idle or 'none'}."
    yield ""
    if not found["directions"]:
        yield "Limits and bounds that bind leave no direction free."
        yield ""
        return
    yield "Directions that limits and bounds leave free (eigenvectors of the reduced Hessian), and what a step of 10 % costs"
    yield ""
    rows = [
        [
            one["direction"],
            f"{50.0 * one['curvature']:.3g} ± {98.0 * one['std_error']:.2g} %",
            "yes" if one["identified"] else "no",
        ]
        for one in found["directions"]
    ]
    yield from table(["numbers that move together", "share of the cost", "identified"], rows)


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
    yield from table(["number", "gradient", "cost", *names], rows)


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
            estimate(row["estimate"], row["std_error"]),
            estimate(row["reference"], row["reference_error"]),
            number(row["z"], 2),
            "pass" if row["passed"] else "FAIL",
        ]
        for row in policy["gradients"]
    ]
    yield from table(["number", "method", "estimate", "differences", "apart", ""], rows)


def _front(policy: dict[str, Any]) -> Iterator[str]:
    if not policy["front"]:
        return
    (moderate,) = [p["limit"] for p in policy["front"] if p["cost"] == policy["cost"]["tuning"]][:1]

    def name(point: dict[str, Any]) -> str:
        factor = point["limit"] / moderate
        return f"x {factor:.3g} {_VARIANTS.get(round(factor, 6), '')}".strip()

    yield "Front: one limit moved, every point searched from its neighbor and certified; price by multipliers, slope along the"
    yield "front; they agree within 5 % or 3 standard errors"
    yield ""
    rows = []
    for point in policy["front"]:
        rows.append(
            [
                name(point),
                number(point["limit"]),
                number(point["cost_before_rounding"], 5),
                number(point["cost"], 5),
                number(point["fresh"]),
                number(point["upper_bound"]),
                point["certificate"].replace("_", " "),
                estimate(point["price"], point["price_error"]),
                estimate(point["slope"], point["slope_error"]),
                {True: "yes", False: "NO", None: "-"}[point["agree"]],
            ]
        )
    head = [
        "target",
        "limit",
        "cost",
        "on the grid",
        "fresh paths",
        "upper bound",
        "certificate",
        "price",
        "slope",
        "agree",
    ]
    yield from table(head, rows)
    for point in policy["front"]:
        for better in _cheaper(point, policy["front"]):
            saved = 1e4 * (point["cost"] - better["cost"])
            yield (
                f"NOT THE CHEAPEST: the policy of {name(better)} meets the limit of {name(point)} too, for {number(saved, 2)} "
                "basis points of the book less; search again from it (tune.variables, start)"
            )
            yield ""


def _cheaper(point: dict[str, Any], front: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cheapest certified policy of the front that meets the limit of a point at less cost than its own, if any."""
    meets = [p for p in front if p["certificate"] == "certified" and p["upper_bound"] <= point["limit"]]
    better = [p for p in meets if p["cost"] < point["cost"]]
    return sorted(better, key=lambda p: p["cost"])[:1]


def _made(policy: dict[str, Any]) -> Iterator[str]:
    made = policy.get("made")
    if made:
        yield (
            f"tailrisk {made['version']}, seed {made['seed']}, {made['device']}, {made['precision']}, "
            f"{policy['paths']['tuning']:,} tuning paths, {made['seconds']:.0f} s, {made['processor_seconds']:.0f} s of "
            "one core."
        )
