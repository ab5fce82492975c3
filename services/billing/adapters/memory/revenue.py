"""Lists of revenue that a test fills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.billing.domain.revenue import InvoicedOverage, MeteredCustomers, Standings


@dataclass
class MemoryRevenueLists:
    """RevenueLists over what a test says, from when on."""

    standing: list[tuple[datetime, Sequence[Standings]]] = field(default_factory=list)
    """What holds from each moment on, by moment."""
    charged: list[tuple[datetime, InvoicedOverage]] = field(default_factory=list)
    """By when it was finalized."""
    used: Sequence[MeteredCustomers] = ()

    async def standings(self, at: datetime) -> Sequence[Standings]:
        """As RevenueLists."""
        return next((standings for since, standings in reversed(self.standing) if since <= at), ())

    async def overage(self, *, after: datetime, until: datetime) -> Sequence[InvoicedOverage]:
        """As RevenueLists."""
        return [overage for moment, overage in self.charged if after < moment <= until]

    async def metered(self, *, until: datetime) -> Sequence[MeteredCustomers]:  # noqa: ARG002
        """As RevenueLists."""
        return self.used
