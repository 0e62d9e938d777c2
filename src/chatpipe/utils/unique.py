"""The first of all items that are alike in some way."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def unique_by(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[Item]:
    """Items without those of which an earlier one has the same key."""
    firsts: dict[Hashable, Item] = {}
    for item in items:
        firsts.setdefault(key(item), item)
    return list(firsts.values())
