"""Stripe's record in memory: what a test says that is there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from kit.errors import DependencyUnavailable
from services.billing.domain.reconciliation import TheirInvoice, TheirRecord
from services.billing.domain.stripe_objects import StripeRefund

_NOTHING = TheirRecord(is_customer_there=False, invoices=(), charges=())


@dataclass
class MemoryRecordsAtStripe:
    """RecordsAtStripe over dictionaries."""

    by_customer: dict[str, TheirRecord] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    """Whose each customer is, of those that were made lately."""
    is_away: bool = False
    """Whether it cannot be asked."""
    refunded: dict[str, int] = field(default_factory=dict)
    """How much was given back, by charge."""

    async def customers(self, *, since: datetime) -> Mapping[str, frozenset[str]]:  # noqa: ARG002
        """As RecordsAtStripe."""
        self._ask()
        return {
            owner: frozenset(each for each in self.owners if self.owners[each] == owner)
            for owner in set(self.owners.values())
        }

    async def read(
        self,
        customers: Collection[str],
        *,
        kept: str,
        invoices: Collection[str],  # noqa: ARG002
        since: datetime,  # noqa: ARG002
    ) -> TheirRecord:
        """As RecordsAtStripe."""
        self._ask()
        found = [self.by_customer.get(each, _NOTHING) for each in sorted({*customers, kept} - {""})]
        return TheirRecord(
            is_customer_there=self.by_customer.get(kept, _NOTHING).is_customer_there,
            invoices=tuple(each for record in found for each in record.invoices),
            charges=tuple(each for record in found for each in record.charges),
        )

    async def disown(self, stripe_invoice_id: str) -> None:
        """As RecordsAtStripe."""
        self._ask()
        for customer, record in self.by_customer.items():
            disowned = tuple(_disowned(each, stripe_invoice_id) for each in record.invoices)
            self.by_customer[customer] = replace(record, invoices=disowned)

    async def refund(self, stripe_charge_id: str, amount_minor: int) -> StripeRefund:
        """As RecordsAtStripe."""
        self._ask()
        self.refunded[stripe_charge_id] = self.refunded.get(stripe_charge_id, 0) + amount_minor
        charges = [each for record in self.by_customer.values() for each in record.charges]
        (currency_code,) = {each.amount.currency_code for each in charges if each.stripe_charge_id == stripe_charge_id}
        return StripeRefund(
            stripe_refund_id=f"re_{stripe_charge_id}_{self.refunded[stripe_charge_id]}",
            amount_minor=amount_minor,
            currency_code=currency_code,
            status="succeeded",
        )

    def _ask(self) -> None:
        if self.is_away:
            raise DependencyUnavailable(dependency="Stripe")


def _disowned(there: TheirInvoice, stripe_invoice_id: str) -> TheirInvoice:
    if there.invoice.stripe_invoice_id != stripe_invoice_id:
        return there
    return replace(there, invoice=replace(there.invoice, invoice_id=""))
