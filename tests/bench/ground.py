"""What everything is measured on: one durable Postgres, accounts that know everybody, and how much is measured."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from services.metering.adapters.postgres_ledger import PostgresLedgerWriter
from services.metering.domain.acceptance import Status
from services.metering.domain.events import UsageEvent
from tests.bench.events import batches_of, make_events
from tests.bench.processes import cpu_seconds
from tests.bench.stores import LedgerDatabase, copy_rate, durable_postgres, ledger_database
from tests.metering_process import Site, serving_accounts

DIRECT_BATCH_EVENTS = 5_000
ONE = ["org-one"]
MIXED = [f"org-{number:03}" for number in range(50)]

WriteRate = Callable[[Sequence[UsageEvent]], Awaitable[float]]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    rounds: int = 5
    events: int = 20_000
    """Of each round."""
    old_identities: int = 4_000_000
    totalled_events: int = 400_000
    followed_events: int = 60_000
    remembered_events: int = 1_000_000
    paced_seconds: float = 8.0

    def quick(self) -> Sizes:
        """Enough to see that everything measures; not enough to believe the figures."""
        return replace(
            self,
            rounds=3,
            events=5_000,
            old_identities=200_000,
            totalled_events=50_000,
            followed_events=10_000,
            remembered_events=50_000,
            paced_seconds=4.0,
        )


@dataclass(kw_only=True)
class Ground:
    """Where things are measured, and what one measure leaves for the next."""

    folder: Path
    sizes: Sizes
    server: EmbeddedPostgres
    accounts_address: str
    database: LedgerDatabase
    stream_rates: list[float] = field(default_factory=list)
    """Of I2: events per second."""
    ingest_cpu: list[float] = field(default_factory=list)
    """Of I2: seconds of metering and of Postgres per event."""

    def site(self, database: LedgerDatabase, name: str = "metering") -> Site:
        """What metering is started with on a database."""
        return Site(
            urls=database.role_urls(), accounts_address=self.accounts_address, log_path=self.folder / f"{name}.log"
        )

    def copy(self, events: int | None = None) -> float:
        """One run of the baseline C."""
        return copy_rate(self.database, make_events(events or self.sizes.events, MIXED), DIRECT_BATCH_EVENTS)

    def store_cpu(self) -> float:
        """CPU seconds of Postgres so far, all its processes together."""
        assert self.server.pid is not None
        return cpu_seconds(self.server.pid, with_children=True)

    def new_database(self, name: str) -> LedgerDatabase:
        """A ledger of its own."""
        return ledger_database(self.server, name)

    @property
    def peak_rate(self) -> float:
        """The median of I2."""
        return median(self.stream_rates)


@asynccontextmanager
async def prepared(folder: Path, sizes: Sizes) -> AsyncIterator[Ground]:
    """Everything but the services, which each measure starts as it needs."""
    async with durable_postgres(folder) as server, serving_accounts() as accounts_address:
        yield Ground(
            folder=folder,
            sizes=sizes,
            server=server,
            accounts_address=accounts_address,
            database=ledger_database(server, "ledger"),
        )


@asynccontextmanager
async def writing(database: LedgerDatabase) -> AsyncIterator[WriteRate]:
    """The ledger's own writing, without a network: takes events, answers how many a second were written."""
    writer = Database(database.role_urls()["writer"], pool_size=1)
    ledger = PostgresLedgerWriter(writer)

    async def write_rate(events: Sequence[UsageEvent]) -> float:
        started = perf_counter()
        for batch in batches_of(events, DIRECT_BATCH_EVENTS):
            outcomes = await ledger.append(batch, now=datetime.now(UTC))
            assert all(outcome.status is Status.ACCEPTED for outcome in outcomes)
        return len(events) / (perf_counter() - started)

    yield write_rate
    await writer.close()
