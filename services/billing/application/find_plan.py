"""Find plan: what a version of a plan says, or what was agreed with one organization alone."""

from __future__ import annotations

from collections import OrderedDict

from services.billing.application.ports.books import Books
from services.billing.application.ports.catalog import Plans
from services.billing.domain.catalog import Plan
from services.billing.domain.timeline import PlanRef

REMEMBERED_MAX = 1_000


class FindPlan:
    """Finds terms. They never change, so what was found is remembered."""

    def __init__(self, books: Books, plans: Plans) -> None:
        self._books = books
        self._plans = plans
        self._remembered: OrderedDict[tuple[str, str], Plan] = OrderedDict()

    async def __call__(self, organization_id: str, ref: PlanRef) -> Plan:
        """The terms. Reads them in a transaction of its own: never to be called while books are open, which would hold
        one connection and wait for another.
        """
        if not ref.custom_id:
            return await self._plans.version(ref.plan_id, ref.version)
        key = (organization_id, ref.custom_id)
        if key not in self._remembered:
            async with self._books.read(organization_id) as book:
                self._remembered[key] = await book.custom_plans.get(ref.custom_id)
            if len(self._remembered) > REMEMBERED_MAX:
                self._remembered.popitem(last=False)
        return self._remembered[key]
