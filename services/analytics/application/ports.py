"""What the use cases of analytics need of the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Protocol

from kit.feed import Position
from services.analytics.domain.days import Interval
from services.analytics.domain.price_requests import PriceRequest
from services.analytics.domain.prices import Price, PriceTable
from services.analytics.domain.pricing import RatedCall
from services.analytics.domain.summary import ProviderTotal


class PriceBook(Protocol):
    """Keeps the prices, all versions of them."""

    async def current(self) -> PriceTable:
        """The table with everything that was set before the question was asked."""
        ...

    async def set_price(self, request: PriceRequest) -> Price:
        """Decides the request (`price_requests.decide`) and writes what it changes as the next version, in one
        transaction; answers the price that is kept. Requests are decided one after the other. Raises what `decide`
        raises, and DependencyUnavailable, after which the same request is safe.
        """
        ...


class CostWriter(Protocol):
    """Keeps the priced calls of organizations, each with the position of the ledger that they reach to."""

    async def position(self, organization_id: str) -> Position | None:
        """How far the ledger is applied; None when the organization was never begun."""
        ...

    async def begin(self, organization_id: str, *, price_version: int) -> None:
        """Begins an organization at START; one that was begun stays as it is."""
        ...

    async def append(
        self,
        organization_id: str,
        after: Position,
        upto: Position,
        calls: Sequence[RatedCall],
        *,
        price_version: int,
    ) -> bool:
        """Keeps the calls between two positions and moves to the second, in one transaction. False, and nothing is
        kept, when the organization is not at `after` any more, or was re-rated with a table newer than price_version.
        """
        ...

    async def restart(self, organization_id: str, at: Position, *, price_version: int) -> bool:
        """Forgets the organization's calls and goes back to START, in one transaction. False, and nothing is
        forgotten, when it is not at `at` any more.
        """
        ...


class CostRerater(Protocol):
    """Brings priced calls up to date with new prices."""

    async def organizations_before(self, price_version: int) -> Sequence[str]:
        """The organizations that were last rated as a whole with an earlier table than that."""
        ...

    async def price_version(self, organization_id: str) -> int | None:
        """The table that the organization was last rated with as a whole: its calls cost what that table or a later
        one says. None: it was never begun.
        """
        ...

    async def calls_before(
        self, organization_id: str, price_version: int, *, since: datetime, after_sequence: int, count: int
    ) -> Sequence[RatedCall]:
        """Calls since an event time with costs from an earlier table than that, in sequence, at most `count`."""
        ...

    async def replace_costs(self, organization_id: str, calls: Sequence[RatedCall], *, price_version: int) -> bool:
        """Writes new costs of calls that are kept, in one transaction. False, and nothing is written, when
        price_version is not the newest any more.
        """
        ...

    async def finish_rerating(
        self, organization_id: str, *, from_version: int, to_version: int, since: datetime, upto_sequence: int
    ) -> bool:
        """Declares the organization rated with to_version as a whole. False when it is not at from_version any more,
        or when beyond upto_sequence there are calls since that time with costs from an earlier table.
        """
        ...


@dataclass(frozen=True, slots=True)
class CostTotals:
    """Totals by provider, and the last event of the ledger that they could include."""

    providers: tuple[ProviderTotal, ...]
    applied_sequence: int


class CostReader(Protocol):
    """Reads one organization's priced calls."""

    async def totals(self, organization_id: str, interval: Interval) -> CostTotals:
        """Exact totals of the calls in the interval and the applied sequence, both of the same instant. A call that
        was taken back counts in neither cost nor number, and a provider of whose calls none is left is not named. An
        organization that was never begun has none, at sequence 0.
        """
        ...


class TimeZones(Protocol):
    """Knows in which time zone the days of an organization are."""

    async def zone_of(self, organization_id: str) -> tzinfo:
        """The zone, at most a few seconds old; older while it cannot be asked for. Raises OrganizationNotFound and
        DependencyUnavailable.
        """
        ...


class WholeLedger(Protocol):
    """The usage ledger, as far as it can be read from its beginning."""

    async def require_first_entries(self, organization_id: str) -> None:
        """Raises OutOfRetention when the first entries are no longer kept, and DependencyUnavailable."""
        ...
