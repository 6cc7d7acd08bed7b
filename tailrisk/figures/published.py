"""Published figures: run, judge, write and draw; each is redrawn to the same bytes from its table of points."""

import json
import shlex
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from ..study.config import ConfigError
from ..study.folder import write_atomic, write_json
from ..study.observed import Claim, Row, judged, read_curves, status, write_curves
from ..study.published import Experiment, Setting, data_records, judgement, manifest
from . import style

EXIT = {"PASSED": 0, "FAILED": 1, "REFUSED": 3}
_MARKS = {"FAILED": ("band missed", "#d00000"), "REFUSED": ("estimate refused", "#d00000")}


class Verdict(NamedTuple):
    """What became of a figure."""

    name: str
    status: str
    rows: list[Row]
    seconds: float

    def line(self) -> str:
        """One line: verdict, checks, and the one nearest to its band or beyond it."""
        text = f"{self.name:<18}{self.status:<9}{sum(row.passed for row in self.rows)} of {len(self.rows)} checks"
        if self.rows:
            worst = max(self.rows, key=lambda row: (not row.passed, row.deviation))
            text += f", nearest to its band: {worst.id} ({worst.deviation:.2f} of it)"
        return f"{text}, {self.seconds:.0f} s"

    def misses(self) -> list[str]:
        """A line for each check that did not pass."""
        return [
            f"{self.name}: {row.id}: {row.refused}"
            if row.refused
            else f"{self.name}: {row.id}: expected {row.expected:.6g} within {row.tolerance:.2g}, got {row.obtained:.6g} "
            f"({row.provenance})"
            for row in self.rows
            if not row.passed
        ]


def publish(experiment: Experiment, out: Path, setting: Setting, *, smoke: bool) -> Verdict:
    """Runs an experiment and writes NAME.csv, NAME.json, NAME.pdf, NAME.png and a caption NAME.md, whatever its checks say."""
    config, data, began = experiment.config(smoke), data_records(experiment, setting.data), time.monotonic()
    curves = experiment.module.main(config, setting)
    seconds = time.monotonic() - began
    precision = "f32" if setting.dtype.itemsize == 4 else "f64"
    words = ["tailrisk", "figure", experiment.name, "--smoke" if smoke else "--full", "--seed", str(setting.seed)]
    written = manifest(
        experiment,
        config,
        setting,
        command=shlex.join([*words, "--precision", precision]),
        smoke=smoke,
        seconds=seconds,
        curves=curves,
        data=data,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_curves(out / f"{experiment.name}.csv", curves)
    write_json(out / f"{experiment.name}.json", written)
    return redraw(experiment, out)._replace(seconds=seconds)


def redraw(experiment: Experiment, out: Path) -> Verdict:
    """Judges and draws a figure from what was written, without simulating; the manifest takes the verdicts and what drew it."""
    began, written = time.monotonic(), _manifest(out / f"{experiment.name}.json")
    curves = read_curves(out / f"{experiment.name}.csv")
    rows = judged(experiment.module.checks(curves))
    write_json(out / f"{experiment.name}.json", written | judgement(experiment, curves, rows))
    figure = style.house_style(experiment.module.draw)(curves)
    marks = [_MARKS[status(rows)]] if status(rows) in _MARKS else []
    mark(figure, marks + ([("smoke run", style.GRAY)] if written["mode"] == "smoke" else []))
    style.save(figure, out, experiment.name)
    text = caption(experiment, written, rows, experiment.card(curves))
    write_atomic(out / f"{experiment.name}.md", lambda file: file.write(text.encode()))
    return Verdict(experiment.name, status(rows), rows, time.monotonic() - began)


def caption(experiment: Experiment, written: dict[str, Any], rows: list[Row], claims: list[Claim]) -> str:
    """The caption file: the question, what is drawn, how it was run, where references and data come from, and the card."""
    blocks = [f"# {experiment.name}", f"**{experiment.question}**", *experiment.story]
    most = max(written["paths"].values(), default=0)
    paths = f"at most {most:,} paths a point" if most else "nothing in it is sampled"
    blocks.append(f"Made by `{written['command']}` at commit {str(written['commit'])[:12]}; {paths}.")
    checks = Counter(row.provenance for row in rows)
    sources = [f"* {text} ({count} check{'s' if count > 1 else ''})" for text, count in checks.items()]
    sources += [
        f"* data: {d['path']} of {d['source']} ({d['licence']}; {d['date']}), sha256 {d['sha256']}"
        for d in written["data"]
    ]
    blocks += ["## Where references and data come from", "\n".join(sources)]
    if claims:
        head = (("number", "published", "ours", "provenance of the published number"), ("---",) * 4)
        lines = [f"| {' | '.join(cell or '-' for cell in line)} |" for line in (*head, *claims)]
        blocks += ["## Published and ours", "\n".join(lines)]
    return "\n\n".join(blocks) + "\n"


def mark(figure: Figure, marks: list[tuple[str, str]]) -> None:
    """Writes words in the right margin, which is widened for them."""
    if not marks:
        return
    width = 0.17 / figure.get_figwidth()
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.0, 0.0, 1.0 - width, 1.0))
    for place, (text, color) in enumerate(marks):
        at = 0.98 - place * 1.1 / figure.get_figheight()
        figure.text(1.0 - 0.2 * width, at, text, color=color, rotation=90, ha="right", va="top", fontsize=7)


def _manifest(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: not the manifest of a figure ({error}); run the figure first") from None
