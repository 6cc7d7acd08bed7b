"""Moments of many plain paths from blocks of 64 path numbers, which are the leaves of the canonical tree.

Sums inside a block, and the order in which blocks are joined, depend on path numbers alone: paths that are cut into parts
anywhere between blocks, and taken up in any order, give the same bits.
"""

import numpy as np
from jaxtyping import Float

from . import tree
from .moments import Moments, centered, merge_moments

BLOCK = 64
Nodes = dict[tree.Place, Moments]


def block_moments(y: Float[np.ndarray, "columns paths"]) -> Moments:
    """Moments of shape (columns, blocks); the last block may be short."""
    paths = y.shape[1]
    blocks = -(-paths // BLOCK)
    count = np.clip(paths - BLOCK * np.arange(blocks), 0, BLOCK)
    rows = []
    for column in y:  # one at a time: it stays in the cache
        padded = np.zeros((blocks, BLOCK))
        padded.reshape(-1)[:paths] = column
        center = _sum(padded) / count
        away = padded - center[:, None]
        if paths % BLOCK:
            away[-1, paths % BLOCK :] = 0.0
        square, size = away * away, np.abs(padded)
        powers = [_sum(term) for term in (away, square, square * away, square * square)]
        rows.append(centered(count, center, powers, _sum(size), size.max(axis=1), np.count_nonzero(padded, axis=1)))
    return Moments(*(np.stack(field) for field in zip(*rows, strict=True)))


def _sum(x: Float[np.ndarray, "blocks paths"]) -> Float[np.ndarray, " blocks"]:
    """Over a block, by halves: NumPy may order a sum otherwise for another shape."""
    while (half := x.shape[1] // 2) > 0:
        x = x[:, :half] + x[:, half:]
    return x[:, 0]


def forest(blocks: Moments, first: int) -> Nodes:
    """Nodes of the tree that the blocks, numbered from `first`, make without any other."""
    nodes, height = {}, 0

    def part(chosen: slice | int) -> Moments:
        return Moments(*(field[:, chosen] for field in blocks))

    while size := blocks.count.shape[1]:
        if first % 2:
            nodes[height, first] = part(0)
            blocks, first, size = part(slice(1, None)), first + 1, size - 1
        if size % 2:
            nodes[height, first + size - 1] = part(size - 1)
            blocks = part(slice(0, size - 1))
        blocks, first, height = merge_moments(part(slice(0, None, 2)), part(slice(1, None, 2))), first // 2, height + 1
    return nodes


def join(a: Nodes, b: Nodes) -> Nodes:
    """The nodes of both together."""
    for place, moments in sorted(b.items()):
        a = tree.insert(a, place, moments, merge_moments)
    return a


def total(nodes: Nodes) -> Moments:
    """Moments of the columns over all paths."""
    return tree.total(nodes, merge_moments)
