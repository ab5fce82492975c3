"""The two lists that workers read across organizations, as the fleet role: invoices to collect, Stripe's events.

Work is claimed by moving its time past the lease, in one statement that skips what another claimer holds; no
transaction stays open while Stripe is asked. A claimer that dies loses its claim when the lease ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from kit.postgres.database import Database
from services.billing.application.ports.collection import Claim, DueInvoice
from services.billing.application.ports.stripe_events import DueEvent
from services.billing.domain import limits
from services.billing.domain.stripe_events import StripeEvent

_STORED_TOGETHER = 100
"""Events in one transaction, each of a mebibyte at most."""


class PostgresCollectionList:
    """CollectionList as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueInvoice]:
        """As CollectionList."""
        names = {"now": now, "until": now + limits.CLAIM_LEASE, "count": count}
        async with self._fleet.transaction() as connection:
            rows = (await connection.execute(_CLAIM_INVOICES, names)).all()
        return [DueInvoice(row.organization_id, row.invoice_id, row.attempt_count) for row in rows]

    async def retry(self, due: DueInvoice, *, at: datetime, error: str) -> None:
        """As CollectionList."""
        async with self._fleet.transaction() as connection:
            await connection.execute(_RETRY_INVOICE, _names(due) | {"at": at, "error": error})

    async def park(self, due: DueInvoice, *, reason: str) -> None:
        """As CollectionList."""
        async with self._fleet.transaction() as connection:
            await connection.execute(_PARK_INVOICE, _names(due) | {"reason": reason})

    async def claim_one(self, organization_id: str, invoice_id: str, *, now: datetime) -> Claim:
        """As CollectionList."""
        names = {
            "organization_id": organization_id,
            "invoice_id": invoice_id,
            "now": now,
            "until": now + limits.CLAIM_LEASE,
        }
        async with self._fleet.transaction() as connection:
            row = (await connection.execute(_CLAIM_ONE_INVOICE, names)).one_or_none()
            if row is not None:
                return Claim(DueInvoice(organization_id, invoice_id, row.attempt_count))
            return Claim(None, is_held=bool((await connection.execute(_IS_DUE, names)).rowcount))


@dataclass(frozen=True, slots=True)
class _Arrived:
    """An event that waits to be stored."""

    event: StripeEvent
    now: datetime
    is_new: asyncio.Future[bool]


class PostgresStripeInbox:
    """StripeInbox as the fleet role. What arrives while a transaction is under way is stored by the next one, together:
    nobody waits for company, and a burst costs a few transactions.
    """

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet
        self._arrived: list[_Arrived] = []
        self._storing: asyncio.Task[None] | None = None

    async def store(self, event: StripeEvent, *, now: datetime) -> bool:
        """As StripeInbox."""
        arrived = _Arrived(event, now, asyncio.get_running_loop().create_future())
        self._arrived.append(arrived)
        if self._storing is None or self._storing.done():
            self._storing = asyncio.create_task(self._store_arrived())
        # Who gives up waiting takes nothing back: the others of its transaction are stored all the same.
        return await arrived.is_new

    async def _store_arrived(self) -> None:
        while self._arrived:
            together, self._arrived = self._arrived[:_STORED_TOGETHER], self._arrived[_STORED_TOGETHER:]
            try:
                new = await self._store_together(together)
            except Exception as error:  # noqa: BLE001 - everybody who waits is told
                for each in together:
                    if not each.is_new.done():
                        each.is_new.set_exception(error)
                continue
            for each in together:
                # The same event may be here twice: one of both is new.
                is_new = each.event.event_id in new
                new.discard(each.event.event_id)
                if not each.is_new.done():
                    each.is_new.set_result(is_new)

    async def _store_together(self, together: Sequence[_Arrived]) -> set[str]:
        events = [each.event for each in together]
        names = {
            "event_ids": [event.event_id for event in events],
            "types": [event.type for event in events],
            "object_ids": [event.object_id for event in events],
            "lanes": [event.lane for event in events],
            "payloads": [event.payload for event in events],
            "times": [each.now for each in together],
        }
        async with self._fleet.transaction() as connection:
            # Events of one lane are stored in turn, so that none appears later in front of one already claimed.
            await connection.execute(_TAKE_TURN_IN_LANES, {"lanes": names["lanes"]})
            return set((await connection.execute(_STORE_EVENTS, names)).scalars())

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueEvent]:
        """As StripeInbox."""
        names = {"now": now, "until": now + limits.CLAIM_LEASE, "count": count}
        async with self._fleet.transaction() as connection:
            rows = (await connection.execute(_CLAIM_EVENTS, names)).all()
        return [DueEvent(row.event_id, row.type, row.object_id, row.attempt_count) for row in rows]

    async def retry(self, due: DueEvent, *, at: datetime, error: str) -> None:
        """As StripeInbox."""
        names = {"event_id": due.event_id, "attempt_count": due.attempt_count, "at": at, "error": error}
        async with self._fleet.transaction() as connection:
            await connection.execute(_RETRY_EVENT, names)

    async def set_handled(self, due: DueEvent, *, now: datetime, outcome: str) -> None:
        """As StripeInbox."""
        names = {"event_id": due.event_id, "attempt_count": due.attempt_count, "now": now, "outcome": outcome}
        async with self._fleet.transaction() as connection:
            await connection.execute(_SET_HANDLED, names)


def _names(due: DueInvoice) -> dict[str, object]:
    return {
        "organization_id": due.organization_id,
        "invoice_id": due.invoice_id,
        "attempt_count": due.attempt_count,
    }


_CLAIM_INVOICES = text("""
    WITH chosen AS MATERIALIZED (
        SELECT organization_id, invoice_id FROM billing.due_invoices
        WHERE parked_reason = '' AND next_attempt_time <= :now
        ORDER BY next_attempt_time LIMIT :count FOR UPDATE SKIP LOCKED)
    UPDATE billing.due_invoices AS due
    SET next_attempt_time = :until, attempt_count = due.attempt_count + 1, is_claimed = true
    FROM chosen WHERE due.organization_id = chosen.organization_id AND due.invoice_id = chosen.invoice_id
    RETURNING due.organization_id, due.invoice_id, due.attempt_count
""")
# A claim that has passed to somebody else has another attempt_count: what its former holder says no longer counts.
_RETRY_INVOICE = text("""
    UPDATE billing.due_invoices SET next_attempt_time = :at, last_error = :error, is_claimed = false
    WHERE organization_id = :organization_id AND invoice_id = :invoice_id AND attempt_count = :attempt_count
""")
_PARK_INVOICE = text("""
    UPDATE billing.due_invoices SET parked_reason = :reason, is_claimed = false
    WHERE organization_id = :organization_id AND invoice_id = :invoice_id AND attempt_count = :attempt_count
""")
_CLAIM_ONE_INVOICE = text("""
    UPDATE billing.due_invoices SET next_attempt_time = :until, attempt_count = attempt_count + 1, is_claimed = true
    WHERE organization_id = :organization_id AND invoice_id = :invoice_id
        AND (NOT is_claimed OR next_attempt_time <= :now)
    RETURNING attempt_count
""")
_IS_DUE = text("""
    SELECT 1 FROM billing.due_invoices WHERE organization_id = :organization_id AND invoice_id = :invoice_id
""")
# In one order, so that no two transactions wait for each other.
_TAKE_TURN_IN_LANES = text("""
    SELECT pg_advisory_xact_lock(turn) FROM (
        SELECT DISTINCT hashtextextended('billing.stripe_events/' || lane, 0) AS turn
        FROM unnest(CAST(:lanes AS text[])) AS lane ORDER BY 1) AS turns
""")
_STORE_EVENTS = text("""
    INSERT INTO billing.stripe_events (event_id, type, object_id, lane, payload, receive_time, next_attempt_time)
    SELECT event_id, type, object_id, lane, payload, receive_time, receive_time
    FROM unnest(CAST(:event_ids AS text[]), CAST(:types AS text[]), CAST(:object_ids AS text[]),
        CAST(:lanes AS text[]), CAST(:payloads AS bytea[]), CAST(:times AS timestamptz[])) WITH ORDINALITY
        AS arrived (event_id, type, object_id, lane, payload, receive_time, place)
    ORDER BY place ON CONFLICT (event_id) DO NOTHING RETURNING event_id
""")
_CLAIM_EVENTS = text("""
    WITH chosen AS MATERIALIZED (
        SELECT event_id FROM billing.stripe_events AS waiting
        WHERE handle_time IS NULL AND next_attempt_time <= :now AND NOT EXISTS (
            SELECT 1 FROM billing.stripe_events AS earlier
            WHERE earlier.lane = waiting.lane AND earlier.arrival < waiting.arrival AND earlier.handle_time IS NULL)
        ORDER BY arrival LIMIT :count FOR UPDATE SKIP LOCKED)
    UPDATE billing.stripe_events AS due SET next_attempt_time = :until, attempt_count = due.attempt_count + 1
    FROM chosen WHERE due.event_id = chosen.event_id
    RETURNING due.event_id, due.type, due.object_id, due.attempt_count
""")
_RETRY_EVENT = text("""
    UPDATE billing.stripe_events SET next_attempt_time = :at, last_error = :error
    WHERE event_id = :event_id AND attempt_count = :attempt_count AND handle_time IS NULL
""")
_SET_HANDLED = text("""
    UPDATE billing.stripe_events SET handle_time = :now, outcome = :outcome
    WHERE event_id = :event_id AND attempt_count = :attempt_count AND handle_time IS NULL
""")
