"""The plan catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from services.billing.domain.catalog import CatalogChange, CatalogPlan, Plan


class Plans(Protocol):
    """The plan catalog."""

    async def sold(self) -> Sequence[Plan]:
        """The newest version of every plan that is sold, cheapest first."""
        ...

    async def newest(self, plan_id: str) -> CatalogPlan | None:
        """The newest version of a plan, sold or not; None when there never was one."""
        ...

    async def known(self) -> Mapping[str, CatalogPlan]:
        """The newest version of every plan that there ever was, by plan id, at one instant."""
        ...

    async def version(self, plan_id: str, version: int) -> Plan:
        """The plan as it was sold then; versions never change."""
        ...

    async def apply(self, plans: Sequence[Plan], *, request_id: str, digest: bytes, actor: str) -> CatalogChange:
        """Makes sound plans the catalog, as `change_catalog` decides, in one transaction; concurrent ones take turns.

        The same request_id with the same digest applies nothing again and names the plans it changed the first time;
        with another one it raises RequestIdReused.
        """
        ...
