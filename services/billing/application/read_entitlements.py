"""Read entitlements: what an organization may use, for the services that follow it."""

from __future__ import annotations

from dataclasses import dataclass

from kit.clock import Clock
from kit.feed import Position
from services.billing.application.find_plan import FindPlan
from services.billing.application.ports.books import Books
from services.billing.application.ports.entitlements import EntitlementEntry, EntitlementPage
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.subscriptions import Entitlement, current_period
from services.billing.domain.timeline import PlanRef


@dataclass(frozen=True, slots=True)
class Entitlements:
    """Oldest first, and the position after them."""

    entitlements: tuple[Entitlement, ...]
    position: Position


class ReadEntitlements:
    """Hands the entitlements of an organization over."""

    def __init__(
        self, books: Books, find_plan: FindPlan, subscription_in_force: SubscriptionInForce, clock: Clock
    ) -> None:
        self._books = books
        self._find_plan = find_plan
        self._subscription_in_force = subscription_in_force
        self._clock = clock

    async def __call__(self, organization_id: str, after: Position | None) -> Entitlements:
        """Those after a position up to the head; with None only the one in force, and the head.

        Periods are those that hold this instant: time alone changes a period and no version. Raises LogRewound,
        OrganizationNotFound, InvalidState before the first catalog is applied, and DependencyUnavailable.
        """
        await self._subscription_in_force(organization_id)
        async with self._books.read(organization_id) as book:
            if after is not None:
                page = await book.entitlements.after(after)
            else:
                subscription = await book.subscriptions.in_force()
                entries = (
                    ()
                    if subscription is None
                    else (
                        EntitlementEntry(
                            version=subscription.entitlement_version,
                            plan_id=subscription.plan_id,
                            plan_version=subscription.plan_version,
                            custom_id=subscription.custom_id,
                            status=subscription.status,
                            start=subscription.start,
                            anchor=subscription.anchor,
                        ),
                    )
                )
                page = EntitlementPage(entries, await book.entitlements.head())
        entitlements = [await self._entitlement(organization_id, entry) for entry in page.entries]
        return Entitlements(tuple(entitlements), page.position)

    async def _entitlement(self, organization_id: str, entry: EntitlementEntry) -> Entitlement:
        return Entitlement(
            organization_id=organization_id,
            version=entry.version,
            plan=await self._find_plan(organization_id, PlanRef(entry.plan_id, entry.plan_version, entry.custom_id)),
            status=entry.status,
            period=current_period(start=entry.start, anchor=entry.anchor, moment=self._clock.now()),
        )
