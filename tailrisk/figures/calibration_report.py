"""The report of a calibration in Markdown, from its JSON."""

from collections.abc import Iterator, Mapping
from typing import Any

from .markdown import compact


def format_calibration(found: Mapping[str, Any]) -> str:
    """Tables of what was estimated, with intervals, and of how it fits."""
    lines = [f"# Calibration from {found['source']}, {found['date']}", ""]
    for name, section in SECTIONS.items():
        if name in found:
            lines += section(found[name])
    return "\n".join(lines).rstrip()


def _market(market: Mapping[str, Any]) -> Iterator[str]:
    laws = market["laws"]
    yield (
        f"{market['returns']:,} returns of {market['every_hours']:g} h, {market['start']} to {market['end']}. Written: "
        f"{market['chosen'] or 'nothing'}."
    )
    yield ""
    rows = [
        [name, key, f"{e['value']:.4g}", f"{e['ci95'][0]:.4g} to {e['ci95'][1]:.4g}", e["unit"]]
        for name, law in laws.items()
        for key, e in law["estimates"].items()
    ]
    yield from compact(["law", "number", "value", "95 % interval", "unit"], rows)
    for name, law in laws.items():
        if note := next((e["note"] for e in law["estimates"].values() if "note" in e), ""):
            yield f"{name}: numbers and intervals are {note}."
            yield ""
    rows = []
    for name, law in laws.items():
        good = law["goodness"]
        left = ", ".join(f"{value:.3f}" for value in good["left_over"].values())
        tails = ", ".join(f"{value:.2f}" for value in good["tails"].values())
        rows.append(
            [name, f"{law['log_likelihood']:.1f}", f"{law['bic']:.1f}", f"{good['kolmogorov']:.4f}", left, tails]
        )
    head = ["law", "log likelihood", "2 log L - k log n", "largest distance of ranks from uniform"]
    yield from compact([*head, "clustering left at 1, 6, 24", "tail counts over expected (0.1, 99.9, 1, 99 %)"], rows)
    if market["contests"]:
        rows = [
            [f"{c['first']} over {c['second']}", f"{c['statistic']:.1f}", f"{c['z']:.2f}", f"{c['p_value']:.2g}"]
            for c in market["contests"]
        ]
        yield from compact(["likelihood ratio", "2 log ratio", "Vuong z", "p-value"], rows)
    able = [name for name in laws if "simulated" in laws[name]]
    rows = []
    for key, m in market["measured"].items():
        cells = [laws[name]["simulated"][key] for name in able]
        marks = [f"{v:.4g}" + ("" if m["low"] <= v <= m["high"] else " *") for v in cells]
        rows.append([key, f"{m['value']:.4g}", f"{m['low']:.4g} to {m['high']:.4g}", *marks])
    yield from compact(["statistic (log returns)", "measured", "95 % interval", *able], rows)
    yield "A star marks what lies outside the interval of what was measured."
    yield ""
    if "heston" in market:
        found = market["heston"]
        yield from compact(
            ["Heston, by moments", "value (95 %)"], [[n, _span(e)] for n, e in found["estimates"].items()]
        )
        rows = [[n, f"{m[0]:.3f} ± {1.96 * m[1]:.3f}", f"{m[2]:.3f}"] for n, m in found["moments"].items()]
        yield from compact(["moment", "measured (95 %)", "simulated"], rows)
        yield f"p-value of the moments together: {found['p_value']:.2g}."
        yield ""


def _correlations(pairs: Mapping[str, Any]) -> Iterator[str]:
    names = ("correlation", "crash_correlation", "correlation_rise", "enter", "leave")
    rows = [[pair, *(_span(p["estimates"][name]) for name in names)] for pair, p in pairs.items()]
    head = ["pair", "in calm (1)", "in crash (1)", "rise (1)", "into crash (1/year)", "out of it (1/year)"]
    yield from compact(head, rows)
    first = next(iter(pairs.values()))["buckets"]
    rows = [
        [pair, *(f"{b['correlation']:.2f} ({b['ci95'][0]:.2f} to {b['ci95'][1]:.2f})" for b in p["buckets"])]
        for pair, p in pairs.items()
    ]
    spans = [f"{100 * b['low']:g} to {100 * b['high']:g} % of volatility before" for b in first]
    yield from compact(["correlation after", *spans], rows)


def _impact(impact: Mapping[str, Any]) -> Iterator[str]:
    normal, mean = impact["normal"], impact["prefactor"]["mean"]
    yield (
        f"Before the event, {normal['days']:.1f} days: volatility {normal['volatility']:.4f} per root of a day, volume "
        f"{normal['volume']:,.0f} units a day."
    )
    yield ""
    rows = [
        [name, _span(f["prefactor"]), _span(f["exponent"]), f"{f['explained']:.2f}"]
        for name, f in impact["flow"].items()
    ]
    rows.append(["mean over markets", _span(mean), _span(impact["exponent"]["mean"]), ""])
    low, high = impact["prefactor"]["predicted"]
    rows.append(["another market", f"{low:.2f} to {high:.2f}", "", ""])
    yield from compact(["flow of", "prefactor Y (1)", "exponent (1)", "variance explained"], rows)
    if "resting" in impact:
        resting = impact["resting"]
        rows = [[band, _span(e)] for band, e in resting["prefactor"].items()]
        rows.append(["exponent of walking the bids", _span(resting["exponent"])])
        yield from compact(["resting orders within", "prefactor Y of taking them at once (1)"], rows)
    rows = [
        [
            name,
            f"{e['reference']:.2f}",
            _span(e["sensitivity"]),
            _span(e["floor"]),
            _span(e["recovery"]),
            f"{e['lowest']:.1%}",
        ]
        for name, e in impact["episodes"].items()
    ]
    pooled = impact["constants"]
    rows.append(
        ["pooled; another event", "", *(_span(pooled[key]) for key in ("sensitivity", "floor", "recovery")), ""]
    )
    head = ["event", "reference (1/sqrt(year))", "sensitivity (1)", "floor (1)", "recovery (min)", "worst hour"]
    yield from compact(head, rows)
    yield "Depth is effective: volume over variance, relative to normal. A recovery beyond 720 min is beyond what was looked at."
    yield ""


def _span(e: Mapping[str, Any]) -> str:
    return f"{e['value']:.3g} ({e['ci95'][0]:.3g} to {e['ci95'][1]:.3g})"


def _book(book: Mapping[str, Any]) -> Iterator[str]:
    units, error = book["open_interest_units"]
    yield f"Open interest of all venues: {units:,.0f} units, plus or minus {1.96 * error:,.0f}."
    yield ""
    rows = [[name, _span(e)] for name, e in book["facts"].items()]
    mix = zip(book["leverages"], book["weights"], book["mix"]["low"], book["mix"]["high"], strict=True)
    rows += [[f"share of notional at leverage {lev:g} [A]", f"{w:.2f} ({a:.2f} to {b:.2f})"] for lev, w, a, b in mix]
    yield from compact(["number", "value (95 %)"], rows)


def _replay(events: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for name, event in events.items():
        for key, row in event["forecast"].items():
            known = row["realized"]
            real = (
                "not known" if not known or known[0] is None else " to ".join(f"{v:.3g}" for v in dict.fromkeys(known))
            )
            ratio = _middle(row["ratio"]) if "ratio" in row else ""
            rows.append([name, key, _middle(row["simulated"]), real, ratio])
    head = ["event", "statistic", "simulated, median (90 % of worlds)", "realized", "simulated over realized"]
    yield from compact(head, rows)
    keys = ("amplification", "part of the cascade", "liquidated share", "mark above last")
    rows = [
        [name, f"{e['onset_minutes']} min, {e['news_before_onset']:.1%}", *(_middle(e["attribution"][k]) for k in keys)]
        for name, e in events.items()
    ]
    head = [
        "event",
        "onset and fall until then",
        "amplification of the real fall",
        "part that the model gives the cascade",
    ]
    yield from compact([*head, "liquidated at real prices", "mark above last at real prices"], rows)


def _middle(spread: Mapping[str, Any]) -> str:
    if spread["median"] is None:
        return "never"
    text = f"{spread['median']:.3g} ({spread['low']:.3g} to {spread['high']:.3g})"
    return text + (f", none in {spread['missing']:.0%}" if spread["missing"] else "")


def _posterior(found: Mapping[str, Any]) -> Iterator[str]:
    seen = ", ".join(f"{k} {v:.3f} ± {found['errors'][k]:.2f}" for k, v in found["observed"].items())
    yield f"Posterior given {found['event']} ({seen}); {found['effective']:.0f} of {found['draws']:,} draws are effective."
    yield ""
    rows = [
        [name, _span(e), f"{found['variance_left'][name]:.2f}", f"{found['check']['p_values'][name]:.2f}"]
        for name, e in found["estimates"].items()
    ]
    yield from compact(["number", "posterior mean (95 %)", "prior variance left", "p-value of uniform ranks"], rows)
    part = found["part_of_the_cascade"]
    yield f"Part of the fall that the cascade made: {part['value']:.2f} ({part['ci95'][0]:.2f} to {part['ci95'][1]:.2f})."
    yield ""


def _margins(found: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{found['periods']:,} periods of {_length(found['period_days'])}, {found['start'][:10]} to {found['end'][:10]}; "
        f"fitted on the first {found['train']:,}, judged on the rest. Uncovered: intervals from blocks of {found['block']:,}."
    )
    yield ""
    rows = []
    for name, r in found["rules"].items():
        c, u = r["coverage"], r["uncovered"]
        rows.append(
            [
                name, f"{c['value']:.2%} ({c['ci95'][0]:.2%} to {c['ci95'][1]:.2%})",
                f"{1e4 * u['value']:.2f} ({1e4 * u['ci95'][0]:.2f} to {1e4 * u['ci95'][1]:.2f})",
                f"{r['worst_uncovered']:.1%}", f"{r['mean_margin']:.1%}", f"{r['peak_to_trough']:.2f}",
                f"{r['largest_call']:.1%}", ", ".join(f"{p:.2g}" for p in r["p_values"].values()),
            ]
        )  # fmt: skip
    names = next(iter(found["rules"].values()))["p_values"]
    head = ["rule", "coverage", "uncovered (bp of notional a period)", "worst", "mean margin", "peak to trough"]
    yield from compact([*head, f"largest call in {found['call']:,}", f"p-values: {', '.join(names)}"], rows)


def _length(days: float) -> str:
    return f"{24.0 * days:.3g} h" if days < 1.0 else f"{days:.3g} d"


SECTIONS = {
    "market": _market,
    "correlations": _correlations,
    "impact": _impact,
    "book": _book,
    "replay": _replay,
    "posterior": _posterior,
    "margins": _margins,
}
