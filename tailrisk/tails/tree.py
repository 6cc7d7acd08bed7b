"""Summaries joined as a binary tree over their numbers, so that any order of arrival gives the same bits."""

import functools
from collections.abc import Callable, Mapping
from typing import TypeVar

from .._fields import InputError

Summary = TypeVar("Summary")
Place = tuple[int, int]
"""Node (height, index) of the canonical tree; node (h, i) joins nodes (h - 1, 2 i) and (h - 1, 2 i + 1)."""


def insert(
    nodes: Mapping[Place, Summary], place: Place, summary: Summary, merge: Callable[[Summary, Summary], Summary]
) -> dict[Place, Summary]:
    """The nodes with one more, which may come in any order; two children are merged as soon as both are there."""
    nodes = dict(nodes)
    if place in nodes:
        raise InputError(f"chunk {place[1] << place[0]} is there already")
    while (sibling := (place[0], place[1] ^ 1)) in nodes:
        other = nodes.pop(sibling)
        summary = merge(summary, other) if place[1] < sibling[1] else merge(other, summary)
        place = (place[0] + 1, place[1] // 2)
    nodes[place] = summary
    return nodes


def total(nodes: Mapping[Place, Summary], merge: Callable[[Summary, Summary], Summary]) -> Summary:
    """The summary of all nodes, in the order of their numbers."""
    if not nodes:
        raise InputError("no chunk has been summarized")
    return functools.reduce(merge, [nodes[place] for place in sorted(nodes, key=lambda place: place[1] << place[0])])
