"""Reports of reconciling, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kit.errors import NotFound, RequestIdReused
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.application.ports.reconciliation import Report


class MemoryReports:
    """Reports over the books in memory."""

    def __init__(self, books: MemoryBooks) -> None:
        self._books = books

    async def organizations(self) -> Sequence[str]:
        """As Reports."""
        async with self._books.everything() as world:
            known = {key for key, pages in world.pages.items() if pages.stripe_customer_id or pages.forgotten_customers}
            return sorted(known | {organization_id for organization_id, _ in world.due_closes})

    async def add(self, report: Report) -> None:
        """As Reports."""
        async with self._books.everything() as world:
            world.reports[report.report_id] = report

    async def get(self, report_id: str) -> Report:
        """As Reports."""
        async with self._books.everything() as world:
            if report_id not in world.reports:
                raise NotFound(what="reconciliation report", name=report_id[:64])
            return world.reports[report_id]

    async def newest_first(self, *, before: tuple[datetime, str] | None, count: int) -> Sequence[Report]:
        """As Reports."""
        async with self._books.everything() as world:
            by_time = sorted(world.reports.values(), key=lambda each: (each.begin_time, each.report_id), reverse=True)
            return [each for each in by_time if before is None or (each.begin_time, each.report_id) < before][:count]

    async def begin_repairs(self, request_id: str, digest: bytes, *, report_id: str, actor: str) -> bool:  # noqa: ARG002
        """As Reports."""
        async with self._books.everything() as world:
            kept = world.operator_requests.get(request_id)
            if kept is not None and kept != digest:
                raise RequestIdReused(request_id=request_id)
            world.operator_requests[request_id] = digest
            return kept is None
