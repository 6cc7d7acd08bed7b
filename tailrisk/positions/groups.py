"""Which positions share cash: from accounts and labels to a book of margin groups."""

from typing import Any

import numpy as np

from .._fields import InputError
from .base import Book


def group_positions(
    quantity: Any, entry: Any, cash: Any, group: Any, *, weight: Any = None, reserve: Any = None, account: Any = None
) -> Book:
    """Makes a book in which the positions of an account that carry the same label share one pool of cash.

    The group matrix of an account is its row of labels: all different is isolated margin, all equal is cross margin,
    and anything between is allowed. Labels mean nothing across accounts: two accounts never share cash. A group carries
    the positions of its own label and no others. Groups with neither a position nor cash are left out.

    Args:
        quantity: signed units, (accounts, assets).
        entry: entry prices, USD/unit, (accounts, assets).
        cash: USD posted, by position, (accounts, assets); pooled within a group.
        group: whole-number labels, (accounts, assets).
        weight: how many identical accounts a row stands for, (accounts,); default 1.
        reserve: USD the owner could still post, by position, (accounts, assets); default 0.
        account: ids of the owners, (accounts,); default 0, 1, ...

    **Raises:** `ValueError` if shapes do not agree.
    """
    quantity = np.asarray(quantity, np.float64)
    if quantity.ndim != 2:
        raise InputError(f"quantity has shape {quantity.shape}, expected (accounts, assets); add the missing axis")
    accounts, assets = quantity.shape
    table = {
        "entry": entry,
        "cash": cash,
        "group": group,
        "reserve": np.zeros(quantity.shape) if reserve is None else reserve,
    }
    rows = {"weight": np.ones(accounts) if weight is None else weight}
    rows["account"] = np.arange(accounts) if account is None else account
    for wanted, values in ((quantity.shape, table), ((accounts,), rows)):
        for name, value in values.items():
            if np.shape(value) != wanted:
                raise InputError(f"{name} has shape {np.shape(value)}, expected {wanted} like the rows of quantity")
    label = np.asarray(group)
    # The group of a position is named by the first asset of its account that has the same label.
    first = (label[:, :, None] == label[:, None, :]).argmax(axis=2)
    member = first[:, None, :] == np.arange(assets)[None, :, None]  # (accounts, group, assets)
    pooled = lambda values: np.where(member, np.asarray(values, np.float64)[:, None, :], 0.0)  # noqa: E731
    held, pool, spare = pooled(quantity), pooled(cash).sum(axis=2), pooled(table["reserve"]).sum(axis=2)
    used = (held != 0.0).any(axis=2) | (pool != 0.0) | (spare != 0.0)
    owner, _ = np.nonzero(used)
    columns: dict[str, Any] = {
        "quantity": held[used],
        "entry": np.asarray(entry, np.float64)[owner],
        "cash": pool[used],
        "account": np.asarray(rows["account"])[owner],
        "weight": np.asarray(rows["weight"], np.float64)[owner],
        "reserve": spare[used],
    }
    return Book(**columns)
