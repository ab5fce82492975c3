"""Subscriptions that tests of billing begin."""

from __future__ import annotations

from datetime import datetime

from kit.ids import new_id
from services.billing.application.ports.subscriptions import Act
from services.billing.domain import lifecycle
from services.billing.domain.timeline import PlanRef, Timeline


def begun(plan_id: str, *, start: datetime, trial_days: int = 0, subscription_id: str = "") -> Timeline:
    """One on version 1 of a plan in dollars, whose opening is invoiced at once."""
    return lifecycle.begin(
        subscription_id or new_id("sub"),
        PlanRef(plan_id, 1),
        currency_code="USD",
        start=start,
        trial_days=trial_days,
        opening=start,
    )


def by_tests(now: datetime, action: str = "tests") -> Act:
    """What tests do."""
    return Act(action=action, actor="tests", request_id="r", now=now)
