"""Get subscription usage: what was used in the current and past periods, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

from kit.clock import Clock
from services.billing.application.count_usage import count_usage
from services.billing.application.find_plan import FindPlan
from services.billing.application.ports.books import Books
from services.billing.application.ports.usage import Usage
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.usage_reports import PeriodUsage, recent_stretches, usage_of, wanted_counts


@dataclass(frozen=True, slots=True)
class SubscriptionUsage:
    """The periods, the latest first, as of one event of the ledger."""

    periods: tuple[PeriodUsage, ...]
    as_of_sequence: int


class GetSubscriptionUsage:
    """Reports usage by period."""

    def __init__(
        self,
        books: Books,
        find_plan: FindPlan,
        usage: Usage,
        subscription_in_force: SubscriptionInForce,
        clock: Clock,
    ) -> None:
        self._books = books
        self._find_plan = find_plan
        self._usage = usage
        self._subscription_in_force = subscription_in_force
        self._clock = clock

    async def __call__(self, organization_id: str, *, period_count: int) -> SubscriptionUsage:
        """The last periods that have begun, over all subscriptions that the organization had. What they cost is made of
        the dues that invoices are made of, so it is what is and will be invoiced, before discounts and taxes.

        Raises OrganizationNotFound, OutOfRetention where the ledger no longer tells a period exactly, and
        DependencyUnavailable.
        """
        await self._subscription_in_force(organization_id)
        async with self._books.read(organization_id) as book:
            timelines = await book.subscriptions.timelines()
        stretches = recent_stretches(timelines, self._clock.now(), count=period_count)
        refs = {phase.plan for stretch in stretches for phase in stretch.timeline.phases}
        terms = {ref: await self._find_plan(organization_id, ref) for ref in refs}
        meters = await self._usage.meters()
        counts = await count_usage(
            self._usage, organization_id, wanted_counts(stretches, terms), at=stretches[0].period
        )
        return SubscriptionUsage(
            tuple(usage_of(stretch, terms, meters, counts) for stretch in stretches), counts.as_of_sequence
        )
