"""What the fleet's lists say of revenue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from services.billing.domain.revenue import InvoicedOverage, MeteredCustomers, Standings


class RevenueLists(Protocol):
    """Narrow lists across organizations, written together with what they tell of. What they say of a moment never
    changes afterwards, but for invoices that are voided.
    """

    async def standings(self, at: datetime) -> Sequence[Standings]:
        """Who was subscribed at a moment, as it was known then."""
        ...

    async def overage(self, *, after: datetime, until: datetime) -> Sequence[InvoicedOverage]:
        """What invoices finalized after the one and up to the other moment charged for usage, and are not void."""
        ...

    async def metered(self, *, until: datetime) -> Sequence[MeteredCustomers]:
        """What customers used in their last period of which usage was invoiced by then, by the plan they were on."""
        ...
