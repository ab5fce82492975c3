"""The entitlements in an organization's change log."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from kit.clock import from_unix_microseconds
from kit.feed import START, Position
from kit.head_watch import Look
from kit.postgres.database import Database
from services.billing.adapters.postgres_books.page import CHANGES, Page
from services.billing.application.ports.entitlements import EntitlementEntry, EntitlementPage
from services.billing.domain.subscriptions import SubscriptionStatus

KIND = "entitlement"


class PostgresEntitlements:
    """EntitlementReader over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def head(self) -> Position:
        """As EntitlementReader."""
        row = (await self._page.execute(_HEAD, self._page.names())).one_or_none()
        return START if row is None else Position(row.sequence, row.commit_id)

    async def after(self, position: Position) -> EntitlementPage:
        """As EntitlementReader."""
        entries: list[EntitlementEntry] = []
        while True:
            page = await self._page.changes(position)
            if not page.entries:
                return EntitlementPage(tuple(entries), position)
            entries += [
                _entitlement_from_body(change.position.sequence, change.body)
                for change in page.entries
                if change.kind == KIND
            ]
            position = page.position


class PostgresEntitlementHeads:
    """EntitlementHeads as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def heads(self, mark: str) -> Look:
        """As EntitlementHeads."""
        async with self._fleet.transaction() as connection:
            return await CHANGES.heads(connection, mark)


def _entitlement_from_body(version: int, body: Any) -> EntitlementEntry:
    # Entries of before there were trials say neither a start nor terms of their own.
    return EntitlementEntry(
        version=version,
        plan_id=body["plan_id"],
        plan_version=body["plan_version"],
        custom_id=body.get("custom_id", ""),
        status=SubscriptionStatus(body["status"]),
        start=from_unix_microseconds(body.get("start_us", body["anchor_us"])),
        anchor=from_unix_microseconds(body["anchor_us"]),
    )


_HEAD = text("SELECT sequence, commit_id FROM billing.change_heads WHERE organization_id = :organization_id")
