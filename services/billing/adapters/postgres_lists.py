"""The two lists that workers read across organizations, as the fleet role: invoices to collect, Stripe's events.

Work is claimed by moving its time past the lease, in one statement that skips what another claimer holds; no
transaction stays open while Stripe is asked. A claimer that dies loses its claim when the lease ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text

from kit.postgres.database import Database
from services.billing.application.ports.collection import Claim, DueInvoice
from services.billing.application.ports.stripe_events import DueEvent
from services.billing.domain import limits
from services.billing.domain.stripe_events import StripeEvent


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


class PostgresStripeInbox:
    """StripeInbox as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def store(self, event: StripeEvent, *, now: datetime) -> bool:
        """As StripeInbox."""
        names = {
            "event_id": event.event_id,
            "type": event.type,
            "object_id": event.object_id,
            "lane": event.lane,
            "payload": event.payload,
            "now": now,
        }
        async with self._fleet.transaction() as connection:
            # Events of one lane are stored in turn, so that none appears later in front of one already claimed.
            await connection.execute(_TAKE_TURN_IN_LANE, {"lane": event.lane})
            return bool((await connection.execute(_STORE_EVENT, names)).rowcount)

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
_TAKE_TURN_IN_LANE = text("SELECT pg_advisory_xact_lock(hashtextextended('billing.stripe_events/' || :lane, 0))")
_STORE_EVENT = text("""
    INSERT INTO billing.stripe_events (event_id, type, object_id, lane, payload, receive_time, next_attempt_time)
    VALUES (:event_id, :type, :object_id, :lane, :payload, :now, :now) ON CONFLICT (event_id) DO NOTHING
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
