"""Subscriptions in Postgres: a row each, and a row for each of their phases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, text

from kit.clock import unix_microseconds
from kit.errors import NotFound
from services.billing.adapters.postgres_books.customers import PostgresCustomer
from services.billing.adapters.postgres_books.entitlements import KIND
from services.billing.adapters.postgres_books.page import Page
from services.billing.adapters.postgres_books.revenue import PostgresRevenue
from services.billing.application.ports.subscriptions import Act
from services.billing.domain import lifecycle
from services.billing.domain.subscriptions import PaymentStanding, Subscription, SubscriptionStatus
from services.billing.domain.timeline import Phase, PlanRef, Timeline

CHANGED = "subscription_changed"
"""The kind of an entry that changes nothing of what may be used now."""


class PostgresSubscriptions:
    """SubscriptionBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._revenue = PostgresRevenue(page)

    async def in_force(self) -> Subscription | None:
        """As SubscriptionBook."""
        row = (await self._page.execute(_IN_FORCE, self._page.names())).one_or_none()
        return None if row is None else _subscription_from_row(row)

    async def get(self, subscription_id: str) -> Subscription:
        """As SubscriptionBook."""
        names = self._page.names(subscription_id=_printable(subscription_id))
        row = (await self._page.execute(_SUBSCRIPTION, names)).one_or_none()
        if row is None:
            raise NotFound(what="subscription", name=subscription_id[:64])
        return _subscription_from_row(row)

    async def timeline(self, subscription_id: str) -> Timeline:
        """As SubscriptionBook."""
        names = self._page.names(subscription_id=_printable(subscription_id))
        row = (await self._page.execute(_FRAME, names)).one_or_none()
        if row is None:
            raise NotFound(what="subscription", name=subscription_id[:64])
        phases = await self._page.execute(_PHASES, names)
        return _timeline_from_rows(row, [_phase_from_row(phase) for phase in phases])

    async def timelines(self) -> Sequence[Timeline]:
        """As SubscriptionBook."""
        phases: defaultdict[str, list[Phase]] = defaultdict(list)
        for row in await self._page.execute(_ALL_PHASES, self._page.names()):
            phases[row.subscription_id].append(_phase_from_row(row))
        frames = await self._page.execute(_FRAMES, self._page.names())
        return [_timeline_from_rows(row, phases[row.subscription_id]) for row in frames]

    async def begin(self, timeline: Timeline, act: Act) -> Subscription:
        """As SubscriptionBook."""
        before = await self.in_force()
        if before is not None:
            await self._end(before, timeline, act)
        fresh = lifecycle.as_of(timeline, PaymentStanding.GOOD, act.now, organization_id=self._page.organization_id)
        body = _body(fresh, act) | {"supersedes": before.subscription_id if before else None}
        position = await self._page.append(kind=KIND, body=body)
        begun = replace(fresh, entitlement_version=position.sequence)
        await self._page.execute(_BEGIN, self._page.names(**_frame_to_row(begun, timeline)))
        await self._keep(begun, timeline, act)
        await self._revenue.note_standing(begun, sequence=position.sequence, since=act.now)
        return replace(begun, stripe_customer_id=await PostgresCustomer(self._page).stripe_id())

    async def change(self, timeline: Timeline, standing: PaymentStanding, act: Act) -> Subscription:
        """As SubscriptionBook."""
        before = await self.get(timeline.subscription_id)
        after = lifecycle.as_of(timeline, standing, act.now, organization_id=self._page.organization_id)
        is_alike = lifecycle.entitles_alike(before, after)
        position = await self._page.append(kind=CHANGED if is_alike else KIND, body=_body(after, act))
        version = before.entitlement_version if is_alike else position.sequence
        changed = replace(after, entitlement_version=version, stripe_customer_id=before.stripe_customer_id)
        await self._keep(changed, timeline, act)
        await self._revenue.note_standing(changed, sequence=position.sequence, since=act.now)
        return changed

    async def _end(self, before: Subscription, successor: Timeline, act: Act) -> None:
        timeline = lifecycle.ended(await self.timeline(before.subscription_id), successor)
        await self._keep(replace(before, status=SubscriptionStatus.CANCELED, next_change_time=None), timeline, act)

    async def _keep(self, subscription: Subscription, timeline: Timeline, act: Act) -> None:
        numbers = await self._keep_phases(timeline, act)
        names = self._page.names(
            subscription_id=subscription.subscription_id,
            status=subscription.status.value,
            standing=subscription.standing.value,
            end_time=timeline.end,
            entitlement_version=subscription.entitlement_version,
            phase_number=numbers[timeline.phase_at(act.now)],
            change_time=subscription.next_change_time,
        )
        await self._page.execute(_KEEP, names)
        await self._page.execute(_UNSCHEDULE if subscription.next_change_time is None else _SCHEDULE, names)

    async def _keep_phases(self, timeline: Timeline, act: Act) -> Mapping[Phase, int]:
        """Writes what differs; answers the number of each phase."""
        names = self._page.names(subscription_id=timeline.subscription_id, supersede_time=act.now)
        rows = (await self._page.execute(_PHASES, names)).all()
        kept = {_phase_from_row(row): int(row.phase_number) for row in rows}
        gone = [number for phase, number in kept.items() if phase not in timeline.phases]
        # First, so that another one can begin in the same instant.
        await self._page.execute(_SUPERSEDE, names | {"phase_numbers": gone})
        last = (await self._page.execute(_LAST_NUMBER, names)).scalar_one()
        fresh = [phase for phase in timeline.phases if phase not in kept]
        added = {phase: last + number for number, phase in enumerate(fresh, start=1)}
        if added:
            await self._page.execute(_ADD_PHASE, [names | _phase_to_row(*each) for each in added.items()])
        return kept | added


def _body(subscription: Subscription, act: Act) -> dict[str, object]:
    following = subscription.next_change_time
    return {
        "action": act.action,
        "subscription_id": subscription.subscription_id,
        "plan_id": subscription.plan_id,
        "plan_version": subscription.plan_version,
        "custom_id": subscription.custom_id,
        "status": subscription.status.value,
        "start_us": unix_microseconds(subscription.start),
        "anchor_us": unix_microseconds(subscription.anchor),
        "next_change_us": None if following is None else unix_microseconds(following),
        "actor": act.actor,
        "request_id": act.request_id,
    }


def _printable(name: str) -> str:
    # It may come from callers; what is not printable may be no text that Postgres takes.
    return name if name.isprintable() else ""


def _subscription_from_row(row: Row[Any]) -> Subscription:
    return Subscription(
        subscription_id=row.subscription_id,
        organization_id=row.organization_id,
        plan_id=row.plan_id,
        plan_version=row.plan_version,
        custom_id=row.custom_id,
        currency_code=row.currency_code,
        status=SubscriptionStatus(row.status),
        standing=PaymentStanding(row.standing),
        start=row.start_time,
        anchor=row.anchor,
        entitlement_version=row.entitlement_version,
        next_change_time=row.change_time,
        stripe_customer_id=row.stripe_customer_id,
    )


def _timeline_from_rows(row: Row[Any], phases: Sequence[Phase]) -> Timeline:
    sold = Phase(start=row.start_time, plan=PlanRef(row.plan_id, row.plan_version))
    return Timeline(
        subscription_id=row.subscription_id,
        currency_code=row.currency_code,
        start=row.start_time,
        anchor=row.anchor,
        end=row.end_time,
        phases=tuple(phases) or (sold,),
        opening=row.opening_time,
    )


def _frame_to_row(subscription: Subscription, timeline: Timeline) -> dict[str, object]:
    return {
        "subscription_id": subscription.subscription_id,
        "plan_id": timeline.phases[0].plan.plan_id,
        "plan_version": timeline.phases[0].plan.version,
        "currency_code": timeline.currency_code,
        "status": subscription.status.value,
        "start_time": timeline.start,
        "anchor": timeline.anchor,
        "opening_time": timeline.opening,
        "end_time": timeline.end,
        "entitlement_version": subscription.entitlement_version,
    }


def _phase_from_row(row: Row[Any]) -> Phase:
    return Phase(
        start=row.start_time,
        plan=PlanRef(row.plan_id, row.plan_version, row.custom_id or ""),
        is_trial=row.is_trial,
        is_paused=row.is_paused,
    )


def _phase_to_row(phase: Phase, number: int) -> dict[str, object]:
    return {
        "phase_number": number,
        "start_time": phase.start,
        "plan_id": phase.plan.plan_id,
        "plan_version": phase.plan.version,
        "custom_id": phase.plan.custom_id or None,
        "is_trial": phase.is_trial,
        "is_paused": phase.is_paused,
    }


_SUBSCRIPTION_COLUMNS = """
    SELECT organization_id, subscription_id, currency_code, status, standing, anchor, entitlement_version,
        coalesce(phases.plan_id, sold.plan_id) AS plan_id,
        coalesce(phases.plan_version, sold.plan_version) AS plan_version,
        coalesce(phases.custom_id, '') AS custom_id,
        coalesce(sold.start_time, anchor) AS start_time,
        CASE WHEN status = 'CANCELED' THEN NULL ELSE due.change_time END AS change_time,
        coalesce(customers.stripe_customer_id, '') AS stripe_customer_id
    FROM billing.subscriptions AS sold
        LEFT JOIN billing.subscription_phases AS phases USING (organization_id, subscription_id, phase_number)
        LEFT JOIN billing.due_changes AS due USING (organization_id)
        LEFT JOIN billing.stripe_customers AS customers USING (organization_id)
    WHERE organization_id = :organization_id
"""
_IN_FORCE = text(f"{_SUBSCRIPTION_COLUMNS} AND status <> 'CANCELED'")
_SUBSCRIPTION = text(f"{_SUBSCRIPTION_COLUMNS} AND subscription_id = :subscription_id")
_FRAME_COLUMNS = """
    SELECT subscription_id, plan_id, plan_version, currency_code, anchor, end_time,
        coalesce(start_time, anchor) AS start_time,
        coalesce(opening_time, create_time + interval '30 minutes') AS opening_time
    FROM billing.subscriptions WHERE organization_id = :organization_id
"""
_FRAME = text(f"{_FRAME_COLUMNS} AND subscription_id = :subscription_id")
_FRAMES = text(f"{_FRAME_COLUMNS} ORDER BY entitlement_version")
_PHASE_COLUMNS = """
    SELECT subscription_id, phase_number, start_time, plan_id, plan_version, custom_id, is_trial, is_paused
    FROM billing.subscription_phases WHERE organization_id = :organization_id AND supersede_time IS NULL
"""
_PHASES = text(f"{_PHASE_COLUMNS} AND subscription_id = :subscription_id ORDER BY start_time")
_ALL_PHASES = text(f"{_PHASE_COLUMNS} ORDER BY start_time")
_BEGIN = text("""
    INSERT INTO billing.subscriptions (
        organization_id, subscription_id, plan_id, plan_version, currency_code, status, start_time, anchor,
        opening_time, end_time, entitlement_version)
    VALUES (:organization_id, :subscription_id, :plan_id, :plan_version, :currency_code, :status, :start_time, :anchor,
        :opening_time, :end_time, :entitlement_version)
""")
_KEEP = text("""
    UPDATE billing.subscriptions SET status = :status, standing = :standing, end_time = :end_time,
        entitlement_version = :entitlement_version, phase_number = :phase_number
    WHERE organization_id = :organization_id AND subscription_id = :subscription_id
""")
_LAST_NUMBER = text("""
    SELECT coalesce(max(phase_number), 0) FROM billing.subscription_phases
    WHERE organization_id = :organization_id AND subscription_id = :subscription_id
""")
_SUPERSEDE = text("""
    UPDATE billing.subscription_phases SET supersede_time = :supersede_time
    WHERE organization_id = :organization_id AND subscription_id = :subscription_id
        AND phase_number = ANY(:phase_numbers)
""")
_ADD_PHASE = text("""
    INSERT INTO billing.subscription_phases (
        organization_id, subscription_id, phase_number, start_time, plan_id, plan_version, custom_id, is_trial,
        is_paused)
    VALUES (:organization_id, :subscription_id, :phase_number, :start_time, :plan_id, :plan_version, :custom_id,
        :is_trial, :is_paused)
""")
_SCHEDULE = text("""
    INSERT INTO billing.due_changes (organization_id, change_time, next_attempt_time)
    VALUES (:organization_id, :change_time, :change_time)
    ON CONFLICT (organization_id) DO UPDATE
        SET change_time = :change_time, next_attempt_time = :change_time, attempt_count = 0, last_error = ''
""")
_UNSCHEDULE = text("DELETE FROM billing.due_changes WHERE organization_id = :organization_id")
