"""A2: what rollups save over adding up the events, for the same answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import perf_counter

from kit.clock import unix_microseconds
from kit.feed import Follower
from kit.head_watch import HeadWatch
from kit.postgres.database import Database
from services.metering.adapters.postgres_ledger import PostgresLedgerHeads
from services.metering.adapters.postgres_meters import PostgresMeterCatalog
from services.metering.adapters.postgres_rollups import LedgerSpans, PostgresRollups
from services.metering.adapters.postgres_usage import PostgresUsageReader
from services.metering.application.ports import UsageAnswer
from services.metering.domain.grouping import Dimension, SubjectPart
from services.metering.domain.usage_query import UsageQuery
from services.metering.domain.windows import Window
from tests.bench.ground import Ground
from tests.bench.stores import fill
from tests.bench.table import Figure, Floor

RAW, ROLLED_UP = "org-raw", "org-rolled-up"
DAYS = 28


async def totals(ground: Ground) -> list[Figure]:
    """A2: of two organizations with the same events, one rolled up. Edges within a quarter of an hour, so that rollups
    alone do not answer.
    """
    database, count = ground.new_database("totals"), ground.sizes.totalled_events
    now = datetime.now(UTC)
    for organization_id in (RAW, ROLLED_UP):
        fill(database, organization_id, count, days=DAYS, until=now)
    tenant, writer, fleet = (Database(database.role_urls()[kind]) for kind in ("tenant", "writer", "fleet"))
    spans = LedgerSpans(writer, HeadWatch(PostgresLedgerHeads(fleet).heads))
    await Follower("bench", spans, PostgresRollups(writer)).catch_up(ROLLED_UP)
    with database.connect() as owner:
        owner.execute("VACUUM ANALYZE")
    reader = PostgresUsageReader(tenant)
    meters = tuple((await PostgresMeterCatalog(tenant, writer).meters()).values())
    window = Window(
        unix_microseconds(now - timedelta(days=DAYS - 1, minutes=7)), unix_microseconds(now - timedelta(minutes=22))
    )
    figures = []
    asked_for: list[tuple[str, tuple[Dimension, ...], Floor | None]] = [
        ("totals", (), Floor(at_least=100.0)),
        ("by agent", (SubjectPart.AGENT,), None),
    ]
    for name, group_by, floor in asked_for:
        query = UsageQuery(meters=meters, windows=(window,), group_by=group_by)

        async def asked(organization_id: str, query: UsageQuery = query) -> tuple[float, UsageAnswer]:
            started = perf_counter()
            answer = await reader.usage(organization_id, query, as_of_sequence=None)
            return perf_counter() - started, answer

        await asked(RAW)
        await asked(ROLLED_UP)
        raws, rolled, ratios = [], [], []
        before, expected = await asked(RAW)
        for _ in range(ground.sizes.rounds):
            seconds, answer = await asked(ROLLED_UP)
            after, again = await asked(RAW)
            assert answer.rows == expected.rows == again.rows, "rollups answer otherwise than the events"
            assert answer.rows
            raws.append(after * 1e3)
            rolled.append(seconds * 1e3)
            ratios.append((before + after) / 2 / seconds)
            before = after
        figures += [
            Figure(id="A2", name=f"{name} over {count:,} events, event by event", rounds=raws, unit="ms", digits=0),
            Figure(id="A2", name=f"{name}, from rollups", rounds=rolled, unit="ms", digits=1),
            Figure(id="A2", name=f"{name}, event by event / rollups", rounds=ratios, unit="x", floor=floor, digits=0),
        ]
    for each in (tenant, writer, fleet):
        await each.close()
    return figures
