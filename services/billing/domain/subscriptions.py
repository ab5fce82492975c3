"""Subscriptions and what they entitle to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from kit.errors import InvalidField
from services.billing.domain import limits
from services.billing.domain.catalog import Plan
from services.billing.domain.periods import Period


class SubscriptionStatus(Enum):
    """Where a subscription stands."""

    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    CANCELED = "CANCELED"
    """Ended, or superseded by another one; every other status is in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """An organization on one version of a plan."""

    subscription_id: str
    organization_id: str
    plan_id: str
    plan_version: int
    status: SubscriptionStatus
    anchor: datetime
    """Where its first period begins."""
    entitlement_version: int = 0
    """The entry of the organization's change log that put it in force; 0 before it is."""
    stripe_customer_id: str = ""
    """The organization's customer at Stripe; empty until known there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """What an organization may use, as of one version."""

    organization_id: str
    version: int
    plan: Plan
    status: SubscriptionStatus
    period: Period


def start_of_subscription(requested: datetime | None, now: datetime) -> datetime:
    """Where a new subscription's first period begins. Raises InvalidField for a start too far back or ahead."""
    if requested is None:
        return now
    if requested > now:
        raise InvalidField(field="subscription.start_time", problem="lies ahead")
    if requested < now - limits.START_BACK:
        raise InvalidField(field="subscription.start_time", problem=f"more than {limits.START_BACK.days} days back")
    return requested
