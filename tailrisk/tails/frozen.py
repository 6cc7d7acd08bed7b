"""Fitted sampling laws as JSON text: every number comes back with the same bits."""

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._fields import InputError
from .branching import FittedBranching
from .diagnostics import Row
from .direction import FittedDirection
from .drift import FittedDrift
from .estimate import FittedAntithetic
from .lobe_search import FittedLobes
from .lobes import Lobes
from .rqmc import FittedRQMC, TiltedPoints
from .sampler import Fitted
from .splitting import FittedSplitting
from .strata import FittedStrata
from .subset import FittedSubset
from .targets import Hint, Mean, Probability, Tail
from .tilt import Aim, Law, Shock, Tilt

_LAWS = (
    Fitted,
    FittedAntithetic,
    FittedBranching,
    FittedDirection,
    FittedDrift,
    FittedLobes,
    FittedRQMC,
    FittedSplitting,
    FittedStrata,
    FittedSubset,
)
_VALUES = (TiltedPoints, Hint, Mean, Probability, Row, Tail, Aim, Law, Lobes, Shock, Tilt)
_KINDS = {kind.__name__: kind for kind in (*_LAWS, *_VALUES)}


def dumps(fitted: Any) -> str:
    """The text of a fitted law."""
    return json.dumps(_plain(fitted))


def loads(text: str) -> Any:
    """The fitted law of a text made by `dumps`.

    **Raises:** `InputError` if the text is none.
    """
    try:
        return _made(json.loads(text))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"not a fitted law ({error}); expected the text that `tails.dumps` made") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__} | fields
    if hasattr(value, "_asdict"):
        return {"kind": type(value).__name__} | {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "dtype"):
        array = np.asarray(value)
        return {"dtype": array.dtype.name, "shape": list(array.shape), "values": array.ravel().tolist()}
    return value


def _made(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_made(item) for item in value)
    if isinstance(value, dict) and "dtype" in value:
        return jnp.asarray(np.array(value["values"], value["dtype"]).reshape(value["shape"]))
    if isinstance(value, dict):
        return _KINDS[value["kind"]](**{name: _made(item) for name, item in value.items() if name != "kind"})
    return value
