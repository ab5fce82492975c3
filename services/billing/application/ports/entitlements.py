"""The entitlements in an organization's change log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kit.feed import Position
from kit.head_watch import Look
from services.billing.domain.subscriptions import SubscriptionStatus


@dataclass(frozen=True, slots=True)
class EntitlementEntry:
    """An entry of an organization's change log that put a plan or a status in force."""

    version: int
    plan_id: str
    plan_version: int
    custom_id: str
    """The organization's own terms; empty: those of the plan's version."""
    status: SubscriptionStatus
    start: datetime
    anchor: datetime


@dataclass(frozen=True, slots=True)
class EntitlementPage:
    """Entries in sequence, and the position after everything that was read."""

    entries: tuple[EntitlementEntry, ...]
    position: Position


class EntitlementReader(Protocol):
    """One organization's change log."""

    async def head(self) -> Position:
        """The end of the change log."""
        ...

    async def after(self, position: Position) -> EntitlementPage:
        """The entitlement entries after a position, up to the head. Raises LogRewound."""
        ...


class EntitlementHeads(Protocol):
    """How far every organization's change log reaches."""

    async def heads(self, mark: str) -> Look:
        """As kit.head_watch.ReadHeads."""
        ...
