"""TOML <-> typed tree. The types are the schema: keys are fields, `kind` picks a final class of an abstract one.

A config may `include` other files (relative to itself: one name or a list, later ones on top of earlier ones), whose tables
it completes or overrides; `key=value` overrides on the command line go on top. A table without a `kind` completes the default
of its field, if it has one. Unknown keys, missing keys and wrong values are errors that name the dotted key.
"""

import dataclasses
import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cattrs
import equinox as eqx
import numpy as np
import tomli_w
from cattrs import AttributeValidationNote, IterableValidationNote
from cattrs.gen import make_dict_structure_fn, override

from .._fields import SECONDS_PER_YEAR, InputError, problems
from ..data._tables import PACKAGE


class ConfigError(InputError):
    """Bad input of a config: one or several lines, each naming its dotted key or file."""


def read_toml(path: Path) -> dict[str, Any]:
    """A config file with its includes merged in; each `path` in a file is relative to that file."""
    table = _parse(path)
    include = table.pop("include", None)
    if include is None:
        return table
    files = [include] if isinstance(include, str) else include
    if not (isinstance(files, list) and files and all(isinstance(name, str) for name in files)):
        raise ConfigError(f"{path}: include = {include!r}: expected one file name in quotes, or a list of them")
    base: dict[str, Any] = {}
    for file in (path.parent / name for name in files):
        part = _parse(file, wanted_by=path)
        if "include" in part:
            raise ConfigError(
                f"{file}: included by {path}, so it may not include {part['include']!r} itself; list both in {path}"
            )
        base = merge(base, part)
    return merge(base, table)


def _parse(path: Path, wanted_by: Path | None = None) -> dict[str, Any]:
    by = f" (included by {wanted_by})" if wanted_by else ""
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder{by}, expected a TOML file")
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.toml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else "; check the path"
        raise ConfigError(f"{path}: no such config file{by}{hint}")
    try:
        return _anchor(tomllib.loads(path.read_text("utf-8")), path.parent)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _anchor(value: Any, folder: Path) -> Any:
    """Makes every `path` of a config relative to the working folder instead of the config."""
    if isinstance(value, dict):
        return {
            key: str(folder / item) if key == "path" and _is_file(item) else _anchor(item, folder)
            for key, item in value.items()
        }
    return [_anchor(item, folder) for item in value] if isinstance(value, list) else value


def _is_file(item: Any) -> bool:
    return isinstance(item, str) and not item.startswith(PACKAGE)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, table by table; a table with another `kind` replaces the whole table."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("kind", old.get("kind")) == old.get("kind"):
            out[key] = merge(old, value)
        else:
            out[key] = value
    return out


def apply_override(table: dict[str, Any], text: str) -> None:
    """Applies one `dotted.key=value`; the value is TOML, or text where TOML would need quotes."""
    put(table, *parse_override(text))


def parse_override(text: str) -> tuple[str, Any]:
    """The dotted key of `dotted.key=value` and its value."""
    key, sign, value = text.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not sign or not all(names):
        raise ConfigError(f"override {text!r}: expected key=value, for example run.paths=10000")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return ".".join(names), parsed


def put(table: dict[str, Any], key: str, value: Any) -> None:
    """Puts the value of a dotted key into the tables of a config."""
    *parents, last = key.split(".")
    here: Any = table
    for name in parents:
        if isinstance(here, list):
            if not (name.isdigit() and int(name) < len(here)):
                raise ConfigError(f"override of {key}: {name} is no place in a list of {len(here)}; count from 0")
            inner = here[int(name)]
        else:
            inner = here.setdefault(name, {})
        if not (isinstance(inner, dict) or (isinstance(inner, list) and all(isinstance(item, dict) for item in inner))):
            raise ConfigError(f"override of {key}: {name} is {inner!r}, not a table")
        here = inner
    if isinstance(here, list):
        raise ConfigError(f"override of {key}: {last} is an item of a list; write the whole list")
    if isinstance(value, dict) or last != "kind" or here.get("kind") == value:
        here[last] = value
    else:  # another kind has other keys
        here.clear()
        here["kind"] = value


def _finals(kind: type) -> dict[str, type]:
    found: dict[str, type] = {}
    for sub in kind.__subclasses__():
        found |= _finals(sub)
        if not getattr(sub, "__abstractmethods__", None):
            found[sub.__name__] = sub
    return found


def _is_abstract(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, eqx.Module) and kind.__name__.startswith("Abstract")


def _is_final(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, eqx.Module) and not kind.__name__.startswith("Abstract")


def _default(field: Any) -> Any:
    """What a field holds when nothing is given; None if something must be."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)

    def final(cls: type) -> Any:
        fields = dataclasses.fields(cls)
        hooks: dict[str, Any] = {
            field.name: override(struct_hook=lambda value, _, convert=field.metadata["converter"]: convert(value))
            for field in fields
            if field.metadata.get("converter") not in (None, tuple)  # a tuple of components is structured item by item
        }
        defaults = {field.name: field for field in fields if _is_abstract(field.type)}

        def _of_default_kind(name: str, item: Any) -> Any:
            """A table without a kind completes the default of its field."""
            default = _default(defaults[name]) if name in defaults else None
            if default is None or not isinstance(item, dict) or "kind" in item:
                return item
            return merge(converter.unstructure(default, type(default)), item)

        structure = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True, **hooks)

        def hook(value: Any, _: Any) -> Any:
            if isinstance(value, str):
                value = {"kind": value}
            if not isinstance(value, dict):
                raise InputError(f"expected a table of {', '.join(f.name for f in fields)}, got {value!r}")
            value = {key: _of_default_kind(key, item) for key, item in value.items()}
            kind = value.pop("kind", cls.__name__)
            if kind != cls.__name__:
                raise InputError(f"kind = {kind!r}: expected {cls.__name__!r}")
            return structure(value, cls)

        return hook

    def abstract(cls: type) -> Any:
        def hook(value: Any, _: Any) -> Any:
            finals = _finals(cls)
            kind = value if isinstance(value, str) else value.get("kind") if isinstance(value, dict) else None
            if kind is None:
                raise InputError(f"expected a table with a kind, one of {', '.join(finals)}; got {value!r}")
            if kind not in finals:
                raise InputError(f"kind = {kind!r}{_nearest(str(kind), list(finals))}")
            return converter.structure(value, finals[kind])

        return hook

    def whole(cls: type) -> Any:
        def unstructure(value: Any) -> dict[str, Any]:
            table = {"kind": cls.__name__}
            for field in dataclasses.fields(cls):
                item = getattr(value, field.name)
                if item is not None:
                    table[field.name] = _plain(item, field.metadata, converter)
            return table

        return unstructure

    converter.register_structure_hook_factory(_is_final, final)
    converter.register_structure_hook_factory(_is_abstract, abstract)
    converter.register_unstructure_hook_factory(lambda t: _is_final(t) or _is_abstract(t), whole)
    return converter


def _plain(item: Any, metadata: Any, converter: cattrs.Converter) -> Any:
    """TOML's own types for a field's value; times keep a unit."""
    if isinstance(item, tuple | list):
        return [_plain(inner, {}, converter) for inner in item]
    if isinstance(item, eqx.Module):
        return converter.unstructure(item, type(item))
    if metadata.get("unit") == "year" and "bounds" in metadata:
        if np.ndim(item):
            return [_plain(inner, metadata, converter) for inner in item]
        return f"{float(item) * SECONDS_PER_YEAR:.12g} s"  # rounds back to the seconds that were written
    if hasattr(item, "tolist"):
        return item.tolist()
    return item


CONVERTER = _converter()


def structure(table: Any, cls: type, key: str = "") -> Any:
    """Builds a typed tree from TOML tables; `key` is where the table stands in the config.

    **Raises:** `ConfigError` with one line per complaint, each starting with its dotted key.
    """
    try:
        tree = CONVERTER.structure(table, cls)
    except (cattrs.BaseValidationError, ValueError) as error:  # cattrs groups what it finds
        raise ConfigError("\n".join(_lines(error, key))) from None
    wrong = list(problems(tree, key))
    if wrong:
        raise ConfigError("\n".join(wrong))
    return tree


def _lines(error: BaseException, key: str) -> Iterator[str]:
    """Complaints of an exception group of cattrs, by dotted key."""
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        known = [field.name for field in dataclasses.fields(error.cl)]
        for name in sorted(error.extra_fields):
            near = _nearest(name, known) if known else f"; {error.cl.__name__} has no keys, another kind may"
            yield f"{_join(key, name)}: unknown key{near}"
    elif isinstance(error, cattrs.BaseValidationError):
        for inner in error.exceptions:
            note = next((n for n in getattr(inner, "__notes__", []) if isinstance(n, AttributeValidationNote)), None)
            item = next((n for n in getattr(inner, "__notes__", []) if isinstance(n, IterableValidationNote)), None)
            name = note.name if note is not None else ""
            where = _join(key, name) if item is None else f"{key}[{item.index}]"
            yield from _lines(inner, where)
    elif isinstance(error, KeyError):
        name = str(error.args[0])
        yield f"{key if key.endswith(name) else _join(key, name)}: missing; give it a value"
    elif isinstance(error, ValueError):
        yield f"{key}: {error}" if key else str(error)
    elif isinstance(error, TypeError) and "not iterable" in str(error):
        yield f"{key}: expected a list"
    else:
        raise error  # a bug, not bad input


def _join(*keys: str) -> str:
    return ".".join(key for key in keys if key)


def dump(tree: Any) -> str:
    """The tree as TOML that `structure` reads back to the same values."""
    return tomli_w.dumps(CONVERTER.unstructure(tree))
