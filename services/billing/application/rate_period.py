"""Rate period: what a subscription's period costs, by what was used in it so far."""

from __future__ import annotations

from services.billing.application.ports.catalog import Plans
from services.billing.application.ports.usage import Usage
from services.billing.application.subscription_in_force import Standing
from services.billing.domain.invoices import Invoice, InvoiceState, total_of
from services.billing.domain.rating import charged_meters, rate


class RatePeriod:
    """Rates the current period of a subscription."""

    def __init__(self, usage: Usage, plans: Plans) -> None:
        self._usage = usage
        self._plans = plans

    async def __call__(self, standing: Standing) -> Invoice:
        """A draft: the invoice that closing the period now would make, without id and number. Raises
        DependencyUnavailable.
        """
        subscription = standing.subscription
        plan = await self._plans.version(subscription.plan_id, subscription.plan_version)
        meters = await self._usage.meters()
        # Only of what is charged: a total of another meter that cannot be told must hold up no invoice.
        used = await self._usage.totals(subscription.organization_id, standing.period, charged_meters(plan))
        lines = rate(plan, standing.period, used.quantities, meters)
        return Invoice(
            organization_id=subscription.organization_id,
            subscription_id=subscription.subscription_id,
            plan_id=plan.plan_id,
            plan_version=plan.version,
            state=InvoiceState.DRAFT,
            total=total_of(lines, plan.default_book.currency_code),
            lines=lines,
            period=standing.period,
            closed_through_sequence=used.as_of_sequence,
        )
