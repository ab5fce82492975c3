"""What reconciling reads and writes: the other side's record, the reports, and what of both is an organization's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from services.billing.domain.reconciliation import Difference, TheirRecord
from services.billing.domain.stripe_objects import StripeRefund


class RecordsAtStripe(Protocol):
    """Stripe's record, to be compared. Every call raises DependencyUnavailable when trying again later may help, and
    CollectionRefused when not.
    """

    async def customers(self, *, since: datetime) -> Mapping[str, frozenset[str]]:
        """The customers that bear an organization of ours and were made since, by organization."""
        ...

    async def read(
        self, customers: Collection[str], *, kept: str, invoices: Collection[str], since: datetime
    ) -> TheirRecord:
        """Everything of these customers: invoices that were made since, or are open, or are named, with all lines; and
        charges made since, with their refunds. kept: the customer that the organization has; empty: none.
        """
        ...

    async def disown(self, stripe_invoice_id: str) -> None:
        """Takes our mark off an invoice, so that it is no longer found as ours. One that is not there stays so."""
        ...

    async def refund(self, stripe_charge_id: str, amount_minor: int) -> StripeRefund:
        """Gives back so much of a charge, once for each sum that was given back of it before."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A difference in a report, and what became of it."""

    difference: Difference
    is_pending: bool
    outcome: str = ""
    """What its repair came to: `repaired`, `gone` or `failed: …`; empty: none was applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A comparison of all organizations, or of some."""

    report_id: str
    actor: str
    begin_time: datetime
    end_time: datetime
    organization_count: int
    """How many were compared."""
    difference_count: int
    pending_count: int
    failed: Mapping[str, str] = field(default_factory=dict)
    """The organizations that could not be compared, and why."""
    organization_ids: tuple[str, ...] = ()
    """Those with differences, pending ones too."""


class ReconciliationReader(Protocol):
    """What of reconciling is in one organization's books."""

    async def on_their_way(self) -> Collection[str]:
        """The invoices that are still to be handed over, parked ones too."""
        ...

    async def accepted(self) -> Collection[str]:
        """The ids of differences that somebody has looked at and left."""
        ...

    async def of_report(self, report_id: str) -> Sequence[Found]:
        """What a report found, in the order of the differences' ids."""
        ...


class ReconciliationBook(ReconciliationReader, Protocol):
    """The same, open for writing."""

    async def keep(self, report_id: str, found: Sequence[Found]) -> None:
        """Keeps what a report found."""
        ...

    async def set_outcome(self, report_id: str, difference_id: str, outcome: str) -> None:
        """Says what became of a repair."""
        ...

    async def accept(self, difference: Difference, *, actor: str) -> None:
        """Leaves a difference as it is, with an entry of the change log; again: nothing."""
        ...

    async def forget_collected(self, invoice_id: str) -> None:
        """Forgets where at Stripe an invoice is, with an entry of the change log: it is handed over anew."""
        ...


class Reports(Protocol):
    """The reports, which are the operator's."""

    async def organizations(self) -> Sequence[str]:
        """Every organization that has, or had, a customer at Stripe, or a subscription that can be invoiced."""
        ...

    async def add(self, report: Report) -> None:
        """Adds a report."""
        ...

    async def get(self, report_id: str) -> Report:
        """One report. Raises NotFound."""
        ...

    async def newest_first(self, *, before: tuple[datetime, str] | None, count: int) -> Sequence[Report]:
        """Up to `count` reports by their beginning, newest first, from the newest or from the first one before that
        beginning and id.
        """
        ...

    async def begin_repairs(self, request_id: str, digest: bytes, *, report_id: str, actor: str) -> bool:
        """Notes that repairs of a report are asked for; False: by this request they were before. Raises
        RequestIdReused when it came with another digest.
        """
        ...
