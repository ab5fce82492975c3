"""What the fleet's lists of revenue are told by one organization's books, in the transaction of what they tell of."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text

from services.billing.adapters.plan_content import plan_from_content
from services.billing.adapters.postgres_books.page import Page
from services.billing.domain.invoices import Invoice
from services.billing.domain.revenue import annual_amount
from services.billing.domain.subscriptions import Subscription


class PostgresRevenue:
    """Writes on the lists."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def note_standing(self, subscription: Subscription, *, sequence: int, since: datetime) -> None:
        """What the organization's subscription comes to from now on. sequence: the change that says so."""
        names = self._page.names(
            custom_id=subscription.custom_id, plan_id=subscription.plan_id, plan_version=subscription.plan_version
        )
        content = (await self._page.execute(_CONTENT, names)).scalar_one()
        plan = plan_from_content(subscription.plan_id, subscription.plan_version, content)
        names |= {
            "sequence": sequence,
            "since": since,
            "status": subscription.status.value,
            "currency_code": subscription.currency_code,
            "annual_amount": annual_amount(plan, subscription.currency_code),
        }
        await self._page.execute(_ADD_STANDING, names)

    async def note_invoice(self, invoice: Invoice) -> None:
        """What a finalized invoice charges for usage."""
        rows = [
            self._page.names(
                invoice_id=invoice.invoice_id,
                line_number=number,
                finalize_time=invoice.finalize_time,
                plan_id=invoice.plan_id,
                currency_code=line.amount.currency_code,
                amount_minor=line.amount.minor,
                meter=line.meter,
                quantity=line.difference_quantity,
                # Of a correction it is the period that is corrected.
                period_start=line.key.interval.start if line.key else line.period.start,
            )
            for number, line in enumerate(invoice.lines)
            if line.meter
        ]
        if rows:
            await self._page.execute(_ADD_USAGE, rows)

    async def forget_invoice(self, invoice_id: str) -> None:
        """It is void."""
        await self._page.execute(_FORGET_USAGE, self._page.names(invoice_id=invoice_id))


_CONTENT = text("""
    SELECT coalesce(
        (SELECT content FROM billing.custom_plans
            WHERE organization_id = :organization_id AND custom_id = :custom_id),
        (SELECT content FROM billing.plan_versions WHERE plan_id = :plan_id AND version = :plan_version))
""")
_ADD_STANDING = text("""
    INSERT INTO billing.revenue_standings (
        organization_id, sequence, since, plan_id, status, currency_code, annual_amount)
    VALUES (:organization_id, :sequence, :since, :plan_id, :status, :currency_code, :annual_amount)
""")
_ADD_USAGE = text("""
    INSERT INTO billing.revenue_usage (
        organization_id, invoice_id, line_number, finalize_time, plan_id, currency_code, amount_minor, meter, quantity,
        period_start)
    VALUES (:organization_id, :invoice_id, :line_number, :finalize_time, :plan_id, :currency_code, :amount_minor,
        :meter, :quantity, :period_start)
""")
_FORGET_USAGE = text("""
    DELETE FROM billing.revenue_usage WHERE organization_id = :organization_id AND invoice_id = :invoice_id
""")
