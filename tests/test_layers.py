"""Modules import from layers below them alone, so that each can be read without what stands on it."""

import ast
from pathlib import Path

import tailrisk

PACKAGE = Path(tailrisk.__file__).parent
LAYERS = (
    ("_fields", "_hard", "_streams", "_sums", "_packed", "_rare", "_ranges", "_averages", "anchors"),
    ("market", "impact", "oracle", "margin", "breaker", "liquidation", "waterfall", "clearing", "data"),
    ("positions", "book", "execution", "feedback", "fragility"),
    ("cascade",),
    ("simulate",),
    ("scenario",),
    ("leaves",),
    ("tails", "gradients"),
    ("policy", "calibrate"),
    ("study",),
    ("figures",),
    ("bench",),
    ("cli",),
    ("__init__",),
)
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}


def imported(file):
    """Top-level modules of the package that a file imports, lazily or not."""
    inside = file.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom) or (not node.level and not (node.module or "").startswith("tailrisk")):
            continue
        parts = (node.module or "").split(".") if node.module else []
        path = [*inside[: len(inside) - node.level], *parts] if node.level else parts[1:]
        yield from [path[0]] if path else [alias.name for alias in node.names]


def test_every_module_has_its_layer():
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert modules == set(HEIGHT)


def test_imports_go_downwards():
    wrong = []
    for file in PACKAGE.rglob("*.py"):
        own = file.relative_to(PACKAGE).with_suffix("").parts[0]
        for name in imported(file):
            if name != own and name in HEIGHT and HEIGHT[name] > HEIGHT[own]:
                wrong.append(f"{file.relative_to(PACKAGE)} imports {name}")
    assert not wrong
