"""The plan catalog in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kit.errors import RequestIdReused
from services.billing.domain.catalog import CatalogChange, CatalogPlan, Plan, change_catalog, cheapest_first


class MemoryPlans:
    """Plans over dictionaries."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, int], Plan] = {}
        self._newest: dict[str, CatalogPlan] = {}
        self._answers: dict[str, tuple[bytes, CatalogChange]] = {}

    async def sold(self) -> Sequence[Plan]:
        """As Plans."""
        return cheapest_first([entry.plan for entry in self._newest.values() if entry.is_sold])

    async def newest(self, plan_id: str) -> CatalogPlan | None:
        """As Plans."""
        return self._newest.get(plan_id)

    async def known(self) -> Mapping[str, CatalogPlan]:
        """As Plans."""
        return dict(self._newest)

    async def version(self, plan_id: str, version: int) -> Plan:
        """As Plans."""
        return self._versions[plan_id, version]

    async def apply(self, plans: Sequence[Plan], *, request_id: str, digest: bytes, actor: str) -> CatalogChange:  # noqa: ARG002
        """As Plans."""
        if request_id in self._answers:
            first_digest, first = self._answers[request_id]
            if first_digest != digest:
                raise RequestIdReused(request_id=request_id)
            changed = tuple(self._newest[plan.plan_id].plan for plan in first.changed)
            return CatalogChange(tuple(await self.sold()), changed, first.withdrawn)
        change = change_catalog(plans, self._newest)
        for plan in change.sold:
            self._versions[plan.plan_id, plan.version] = plan
            self._newest[plan.plan_id] = CatalogPlan(plan, is_sold=True)
        for plan_id in change.withdrawn:
            self._newest[plan_id] = replace(self._newest[plan_id], is_sold=False)
        self._answers[request_id] = (digest, change)
        return change
