"""Billing profiles and taxes in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from kit.errors import NotFound
from services.billing.adapters.memory.world import World
from services.billing.domain.profile import BillingProfile
from services.billing.domain.tax import TaxRate, TaxRates


class MemoryProfile:
    """ProfileBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._world = world
        self._pages = world.pages[organization_id]

    async def current(self) -> BillingProfile:
        """As ProfileBook."""
        return self._pages.profiles[-1] if self._pages.profiles else BillingProfile()

    async def at(self, moment: datetime) -> BillingProfile:
        """As ProfileBook."""
        then = [each for each in self._pages.profiles if each.update_time is not None and each.update_time <= moment]
        return then[-1] if then else BillingProfile()

    async def tax_history(self) -> Sequence[TaxRates]:
        """As ProfileBook."""
        return list(self._pages.taxes)

    async def set(self, profile: BillingProfile, *, actor: str, request_id: str) -> BillingProfile:  # noqa: ARG002
        """As ProfileBook."""
        if profile.terms.legal_entity_id not in {each.legal_entity_id for each in self._world.legal_entities}:
            raise NotFound(what="legal entity", name=profile.terms.legal_entity_id)
        kept = replace(profile, version=len(self._pages.profiles) + 1)
        self._pages.profiles.append(kept)
        self._pages.change(None)
        return kept

    async def set_taxes(
        self,
        rates: Sequence[TaxRate],
        *,
        start_time: datetime,
        actor: str,  # noqa: ARG002
        request_id: str,  # noqa: ARG002
    ) -> TaxRates:
        """As ProfileBook."""
        kept = TaxRates(version=len(self._pages.taxes) + 1, start_time=start_time, rates=tuple(rates))
        self._pages.taxes.append(kept)
        self._pages.change(None)
        return kept
