"""What was admitted within a window of time. The twin of the window arithmetic in check.lua.

A window is counted by slots, numbered since 1970 by the store's clock (see limits.Window). A slot leaves the window
`slots_counted` slots after its own. Time that steps back counts in the latest slot; when it steps back by more than the
window, the window begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from services.quota.domain.limits import Counter, Window
from services.quota.domain.maxima import COUNTER_MAX

Slots = Mapping[int, int]
"""Quantity by number of slot."""


class WindowCounter(NamedTuple):
    """What is counted within a window. Limits of the same window share it."""

    counter: Counter
    window: Window


class Admitted(NamedTuple):
    """A window as it is at one moment."""

    window: Window
    slots: Slots
    """Those that count, the current one included once something is in it."""
    current: int
    """The number of the slot that counts what is admitted now."""

    @property
    def quantity(self) -> int:
        """What is in the window; a counter stays at its maximum."""
        return min(sum(self.slots.values()), COUNTER_MAX)

    @property
    def empty_us(self) -> int | None:
        """When all of it will have left; None: nothing is in it."""
        filled = [number for number, quantity in self.slots.items() if quantity]
        return self._leaves_us(max(filled)) if filled else None

    def room_us(self, needed: int, hard: int) -> int | None:
        """When `needed` will fit below `hard`, if nothing else comes; None: never, it is more than there ever is."""
        left = self.quantity
        for number in sorted(self.slots):
            left -= self.slots[number]
            if needed <= hard - left:
                return self._leaves_us(number)
        return None

    def admit(self, quantity: int) -> Admitted:
        """The window with a quantity more."""
        added = min(quantity, COUNTER_MAX - self.quantity)
        return self._replace(slots={**self.slots, self.current: self.slots.get(self.current, 0) + added})

    def _leaves_us(self, number: int) -> int:
        return (number + self.window.slots_counted) * self.window.slot_us


def admitted_at(window: Window, slots: Slots, now_us: int) -> Admitted:
    """The window at a moment, of the slots that were kept."""
    current, latest = now_us // window.slot_us, max(slots, default=0)
    if latest > current + window.slots_counted:
        return Admitted(window, {}, current)
    current = max(current, latest)
    counted = {number: quantity for number, quantity in slots.items() if number > current - window.slots_counted}
    return Admitted(window, counted, current)
