"""The command in this process, and what bad input must look like."""

from click.testing import CliRunner
from conftest import ROOT

from tailrisk.cli import main

BASE = ROOT / "tests" / "small.toml"


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def validate(*overrides, config=BASE):
    return invoke("validate", config, *overrides)


def refused(result, *fragments):
    """Status 2 and one or a few lines of plain text that hold all the fragments."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    lines = result.output.splitlines()
    assert lines
    assert all(line.startswith("error: ") for line in lines)
    assert len(lines) <= 7
    assert "Traceback" not in result.output
    for fragment in fragments:
        assert fragment in result.output, result.output


def put(folder, name, content):
    """Writes a file; without a dot in its name it is a CSV table."""
    path = folder / (name if "." in name else "table.csv")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
