"""The usage ledgers, as far as billing asks them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.billing.domain.closing import InvoicedUsage
from services.billing.domain.meters import Meter
from services.billing.domain.periods import Period


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Quantities by meter in base units, and the last event of the ledger that they include."""

    quantities: Mapping[str, int]
    as_of_sequence: int


class Usage(Protocol):
    """The usage ledger, as far as billing asks it."""

    async def totals(
        self, organization_id: str, period: Period, meters: Collection[str], *, as_of_sequence: int | None = None
    ) -> UsageTotals:
        """What was used of the meters within the period by event time, exactly, as recorded up to an event of the
        ledger; None: up to now. Raises DependencyUnavailable.
        """
        ...

    async def meters(self) -> Mapping[str, Meter]:
        """Every meter by name. Raises DependencyUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """The last event of an organization's ledger."""

    organization_id: str
    sequence: int


class InvoicedLedger(Protocol):
    """The usage ledgers, as far as they ask which events are invoiced."""

    def watch(self) -> AsyncIterator[Sequence[LedgerHead]]:
        """The heads of all ledgers first, then those that move. Ends, or raises DependencyUnavailable, when the
        connection does.
        """
        ...

    async def confirm(self, invoiced: Mapping[str, InvoicedUsage]) -> None:
        """Says what is needed no longer, by organization, in place of what was said before. Raises
        DependencyUnavailable.
        """
        ...
