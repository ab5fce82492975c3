"""A dictionary of the latest entries: the oldest makes room for the newest."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Keeps as many entries as it was made for, those that were put last."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: K, value: V) -> None:
        """Keeps the value as the newest."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def get(self, key: K) -> V | None:
        """What is kept; None when nothing is."""
        return self._entries.get(key)

    def drop(self, key: K) -> None:
        """Keeps it no longer."""
        self._entries.pop(key, None)
