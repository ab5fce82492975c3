"""A period on one plan from its first instant on, invoiced for the first time."""

from __future__ import annotations

from collections.abc import Mapping

from services.billing.domain.catalog import Plan
from services.billing.domain.closing import Cut, CutKind
from services.billing.domain.drafting import Account, draft_lines
from services.billing.domain.invoices import Line
from services.billing.domain.meters import Meter
from services.billing.domain.periods import Period
from services.billing.domain.rating import Counts
from services.billing.domain.timeline import Phase, PlanRef, Timeline


def rate(plan: Plan, period: Period, used: Mapping[str, int], meters: Mapping[str, Meter]) -> tuple[Line, ...]:
    """What closing the first period of a subscription early comes to, in the plan's first currency."""
    terms = PlanRef(plan.plan_id, 1)
    timeline = Timeline(
        subscription_id="sub",
        currency_code=plan.default_book.currency_code,
        start=period.start,
        anchor=period.start,
        end=None,
        phases=(Phase(start=period.start, plan=terms),),
        opening=period.start,
    )
    account = Account(timeline=timeline, closes=(), invoiced={})
    counts = Counts({timeline.first_period(): used}, 17)
    return draft_lines(account, {terms: plan}, meters, counts, Cut(CutKind.EARLY, period.start))
