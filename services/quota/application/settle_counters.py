"""Settle on counters and an entitlement that fit each other, then do something with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from kit.errors import DependencyUnavailable
from services.quota.application.find_entitlement import FindEntitlement
from services.quota.application.ports import CountersMissing, EntitlementOutdated
from services.quota.application.rebuild_counters import RebuildCounters
from services.quota.domain.entitlements import Entitlement

T = TypeVar("T")

# A lost store costs two (no entitlement, then no counters); two more for others who change them meanwhile.
_ATTEMPTS_MAX = 5


class SettleCounters:
    """Repeats an attempt that the store refused, with what it lacked put right."""

    def __init__(self, entitlements: FindEntitlement, rebuild: RebuildCounters) -> None:
        self._entitlements = entitlements
        self._rebuild = rebuild

    async def __call__(self, organization_id: str, attempt: Callable[[Entitlement, bool], Awaitable[T]]) -> T:
        """What the attempt answers. It takes an entitlement and whether its period is confirmed by billing, and
        raises EntitlementOutdated or CountersMissing without having changed anything. Raises DependencyUnavailable.
        """
        entitlement, period_confirmed = await self._entitlements(organization_id), False
        for _ in range(_ATTEMPTS_MAX):
            try:
                return await attempt(entitlement, period_confirmed)
            except EntitlementOutdated:
                entitlement, period_confirmed = await self._entitlements.renew(entitlement)
            except CountersMissing:
                await self._rebuild(organization_id)
        raise DependencyUnavailable(dependency="a settled state of the counters")
