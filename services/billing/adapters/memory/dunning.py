"""Dunning in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from services.billing.adapters.memory.world import DunningDue, World
from services.billing.application.ports.dunning import DueDunning
from services.billing.domain.dunning import Dunning


class MemoryDunning:
    """DunningBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._world = world
        self._pages = world.pages[organization_id]
        self._organization_id = organization_id

    async def open_ones(self) -> Sequence[Dunning]:
        """As DunningBook."""
        open_ones = (
            each for each in self._pages.dunnings.values() if each.invoice_id not in self._pages.ended_dunnings
        )
        return sorted(open_ones, key=lambda each: (each.begin_time, each.invoice_id))

    async def look_at(self, invoice_id: str, *, time: datetime) -> None:
        """As DunningBook."""
        self._schedule(invoice_id, time)

    async def begin(self, invoice_id: str, *, now: datetime) -> None:
        """As DunningBook."""
        if invoice_id not in self._pages.dunnings:
            self._pages.dunnings[invoice_id] = Dunning(invoice_id, now, is_suspending=False)
            self._schedule(invoice_id, now)

    async def note(
        self,
        invoice_id: str,
        steps: Collection[str],
        *,
        is_suspending: bool,
        next_time: datetime | None,
        now: datetime,  # noqa: ARG002
    ) -> None:
        """As DunningBook."""
        kept = self._pages.dunnings[invoice_id]
        self._pages.dunnings[invoice_id] = replace(
            kept, is_suspending=kept.is_suspending or is_suspending, done=kept.done | frozenset(steps)
        )
        self._schedule(invoice_id, next_time)

    async def end(self, invoice_id: str, *, now: datetime) -> None:  # noqa: ARG002
        """As DunningBook."""
        if invoice_id in self._pages.dunnings:
            self._pages.ended_dunnings.add(invoice_id)
        self._schedule(invoice_id, None)

    def _schedule(self, invoice_id: str, at: datetime | None) -> None:
        key = self._organization_id, invoice_id
        if at is None:
            self._world.dunnings_due.pop(key, None)
        else:
            self._world.dunnings_due[key] = DunningDue(DueDunning(*key, 0), at)
