"""Subscriptions and what they entitle to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from kit.errors import InvalidField
from services.billing.domain import limits
from services.billing.domain.catalog import Plan
from services.billing.domain.periods import Period, period_at
from services.billing.domain.timeline import PlanRef


class SubscriptionStatus(Enum):
    """Where a subscription stands."""

    TRIALING = "TRIALING"
    """In force, and nothing of it is charged."""
    ACTIVE = "ACTIVE"
    PAST_DUE = "PAST_DUE"
    """A payment failed; it is in force all the same, for a while."""
    SUSPENDED = "SUSPENDED"
    """A payment failed for good: nothing may be used."""
    PAUSED = "PAUSED"
    """Set aside by its customer: nothing may be used, and no base fee is owed."""
    CANCELED = "CANCELED"
    """Ended, or superseded by another one; every other status is in force."""


class PaymentStanding(Enum):
    """What the payment of invoices says about a subscription."""

    GOOD = "GOOD"
    PAST_DUE = "PAST_DUE"
    SUSPENDED = "SUSPENDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """An organization on one version of a plan."""

    subscription_id: str
    organization_id: str
    plan_id: str
    plan_version: int
    custom_id: str = ""
    """The organization's own terms in place of the plan version's; empty: there are none."""
    currency_code: str
    status: SubscriptionStatus
    standing: PaymentStanding
    start: datetime
    anchor: datetime
    """Where its monthly periods are counted from: its start, or the end of its trial."""
    entitlement_version: int = 0
    """The last entry of the organization's change log that says what it entitles to; 0 before there is one."""
    next_change_time: datetime | None = None
    """When the next phase begins, or the end comes; None: nothing is scheduled."""
    stripe_customer_id: str = ""
    """The organization's customer at Stripe; empty until known there."""

    @property
    def plan_ref(self) -> PlanRef:
        """The terms in force."""
        return PlanRef(self.plan_id, self.plan_version, self.custom_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """What an organization may use, as of one version."""

    organization_id: str
    version: int
    plan: Plan
    status: SubscriptionStatus
    period: Period


MAY_USE = frozenset({SubscriptionStatus.TRIALING, SubscriptionStatus.ACTIVE, SubscriptionStatus.PAST_DUE})
"""The statuses in which anything may be used."""


def current_period(*, start: datetime, anchor: datetime, moment: datetime) -> Period:
    """The period of a subscription that holds the moment: the trial's, `[start, anchor)`, or a month's."""
    return Period(start, anchor) if start < anchor and moment < anchor else period_at(anchor, moment)


def start_of_subscription(requested: datetime | None, now: datetime) -> datetime:
    """Where a new subscription begins. Raises InvalidField for a start too far back or ahead."""
    if requested is None:
        return now
    if requested > now:
        raise InvalidField(field="subscription.start_time", problem="lies ahead")
    if requested < now - limits.START_BACK:
        raise InvalidField(field="subscription.start_time", problem=f"more than {limits.START_BACK.days} days back")
    return requested
