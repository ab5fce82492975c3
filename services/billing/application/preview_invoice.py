"""Preview invoice: what the current period would be invoiced at, if it closed now."""

from __future__ import annotations

from services.billing.application.rate_period import RatePeriod
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.invoices import Invoice


class PreviewInvoice:
    """Rates without keeping."""

    def __init__(self, subscription_in_force: SubscriptionInForce, rate_period: RatePeriod) -> None:
        self._subscription_in_force = subscription_in_force
        self._rate_period = rate_period

    async def __call__(self, organization_id: str) -> Invoice:
        """A draft. Raises OrganizationNotFound and DependencyUnavailable."""
        return await self._rate_period(await self._subscription_in_force(organization_id))
