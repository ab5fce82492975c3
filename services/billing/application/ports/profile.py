"""Who an organization is to those who bill it, and which taxes it pays."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from services.billing.domain.profile import BillingProfile, LegalEntity
from services.billing.domain.tax import TaxRate, TaxRates


class ProfileReader(Protocol):
    """The billing profile in one organization's books."""

    async def current(self) -> BillingProfile:
        """The newest version; version 0, which says nothing, before the first."""
        ...

    async def at(self, moment: datetime) -> BillingProfile:
        """The version that was current at a moment."""
        ...

    async def tax_history(self) -> Sequence[TaxRates]:
        """All taxes that were ever set, in the order in which they were."""
        ...


class ProfileBook(ProfileReader, Protocol):
    """The same, open for writing. Each call is an entry of the change log."""

    async def set(self, profile: BillingProfile, *, actor: str, request_id: str) -> BillingProfile:
        """Adds it as the next version, current from its update_time on. Raises NotFound when there is no such legal
        entity.
        """
        ...

    async def set_taxes(
        self, rates: Sequence[TaxRate], *, start_time: datetime, actor: str, request_id: str
    ) -> TaxRates:
        """Adds what is paid from then on, as the next version."""
        ...


class LegalEntities(Protocol):
    """Who bills. Versions are only ever added."""

    async def current(self) -> Sequence[LegalEntity]:
        """The newest version of each, by id. There is always `default`."""
        ...

    async def at(self, legal_entity_id: str, moment: datetime) -> LegalEntity:
        """The version that was current at a moment, or the first one before it. Raises NotFound."""
        ...

    async def apply(
        self, entities: Sequence[LegalEntity], *, request_id: str, digest: bytes, actor: str
    ) -> Sequence[LegalEntity]:
        """Adds a version of each that differs from its newest, with a series of numbers of its own for a new one; those
        left out stay as they are. One transaction; the same request again changes nothing. Answers `current`. Raises
        RequestIdReused, and InvalidField for a prefix that another one has or had: its numbers would come twice.
        """
        ...
