"""What reconciling found in one organization's books, in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from services.billing.adapters.memory.world import World
from services.billing.application.ports.reconciliation import Found
from services.billing.domain.reconciliation import Difference


class MemoryReconciliation:
    """ReconciliationBook over a world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._world = world
        self._organization_id = organization_id
        self._pages = world.pages[organization_id]

    async def on_their_way(self) -> Collection[str]:
        """As ReconciliationBook."""
        return {
            invoice_id for organization_id, invoice_id in self._world.due if organization_id == self._organization_id
        }

    async def accepted(self) -> Collection[str]:
        """As ReconciliationBook."""
        return self._pages.accepted

    async def of_report(self, report_id: str) -> Sequence[Found]:
        """As ReconciliationBook."""
        return [
            found for key, found in sorted(self._pages.found.items(), key=lambda each: each[0]) if key[0] == report_id
        ]

    async def keep(self, report_id: str, found: Sequence[Found]) -> None:
        """As ReconciliationBook."""
        for each in found:
            self._pages.found[report_id, each.difference.difference_id] = each

    async def set_outcome(self, report_id: str, difference_id: str, outcome: str) -> None:
        """As ReconciliationBook."""
        key = (report_id, difference_id)
        self._pages.found[key] = replace(self._pages.found[key], outcome=outcome)

    async def accept(self, difference: Difference, *, actor: str) -> None:  # noqa: ARG002
        """As ReconciliationBook."""
        if difference.difference_id not in self._pages.accepted:
            self._pages.accepted.add(difference.difference_id)
            self._pages.change(None)

    async def forget_collected(self, invoice_id: str) -> None:
        """As ReconciliationBook."""
        self._pages.invoices[invoice_id] = replace(self._pages.invoices[invoice_id], stripe_invoice_id="")
        self._pages.change(None)
