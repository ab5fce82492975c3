"""The process that retires a week is killed at every step; whoever comes after it finishes, and nothing changes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from kit.clock import unix_microseconds
from kit.grpc.errors import reason_of
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.toxic import Toxic, ToxicProxy
from services.metering.adapters.postgres_ledger import PostgresLedgerWriter
from tests.conftest import RoleUrls
from tests.metering_process import ADMIN, FOLLOWER, FOLLOWER_KEY, MeteringProcess, Site, metering_processes, port_of
from tests.old_weeks import OLD, moment, old_weeks
from tests.usage_model import usage
from tollbook.feed.v1 import feed_pb2
from tollbook.metering.v1 import ledger_pb2, ledger_pb2_grpc, metering_pb2

BILLING_KEY = "tb_service_" + "b" * 32
FILE = f"events_{OLD:%Y%m%d}.parquet"
EVENTS = 50

SEAL, ROWS = b"INSERT INTO metering.sealed_spans", b"CAST(labels AS text) AS labels"
RECORD, DETACH, DROP = (
    b"INSERT INTO metering.archived_weeks",
    b"metering.detach_event_partition",
    b"metering.drop_event_partition",
)
STEPS = {
    "before it is sealed": ((SEAL,), Toxic.HOLD),
    "when it is sealed": ((SEAL, b"COMMIT"), Toxic.HOLD_ANSWER),
    "in the middle of its file": ((ROWS,), Toxic.HOLD),
    "when its file is written": ((RECORD,), Toxic.HOLD),
    "when its file is recorded": ((RECORD, b"COMMIT"), Toxic.HOLD_ANSWER),
    "before it is taken out": ((DETACH,), Toxic.HOLD),
    "when it is being taken out": ((DETACH, b"COMMIT"), Toxic.HOLD),
    "when it is out": ((DETACH, b"COMMIT"), Toxic.HOLD_ANSWER),
    "when it is being dropped": ((DROP, b"COMMIT"), Toxic.HOLD),
    "when it is dropped": ((DROP, b"COMMIT"), Toxic.HOLD_ANSWER),
}


@pytest.fixture
def owner(postgres: EmbeddedPostgres, migrated: Callable[[str], RoleUrls]) -> Iterator[psycopg.Connection]:
    migrated("metering")
    with old_weeks(postgres.url, OLD) as connection:
        yield connection


@pytest.fixture
async def recorded(owner: psycopg.Connection, site: Site, organization_id: str) -> str:
    """An organization with events of half a year ago, and one of today."""
    assert owner.execute("SELECT 1 FROM metering.event_weeks WHERE week = %s", (OLD,)).fetchone()
    database = Database(site.urls["writer"])
    writer, now = PostgresLedgerWriter(database), datetime.now(UTC)
    for at, count, name in ((moment(hours=2), EVENTS, "old"), (now, 1, "new")):
        await writer.append(
            [
                usage(f"{name}-{number}", at - timedelta(hours=1), {"api_calls": 1}, organization_id=organization_id)
                for number in range(count)
            ],
            now=at,
        )
    await database.close()
    return organization_id


def retiring(folder: Path, *, followers: str = "") -> dict[str, str]:
    return {"TOLLBOOK_ARCHIVE_DIR": str(folder), "TOLLBOOK_RETENTION_FOLLOWERS": followers}


async def total(
    metering: MeteringProcess,
    organization_id: str,
    *,
    start_time: Timestamp | None = None,
    end_time: Timestamp | None = None,
) -> int:
    request = metering_pb2.QueryUsageRequest(
        organization_id=organization_id, meters=["api_calls"], start_time=start_time, end_time=end_time
    )
    answer = await metering.stub.QueryUsage(request, metadata=ADMIN)
    return sum(row.quantity for row in answer.rows)


async def dropped(owner: psycopg.Connection) -> None:
    query = "SELECT 1 FROM metering.archived_weeks WHERE week = %s AND drop_time IS NOT NULL"
    async with asyncio.timeout(30):
        while True:
            if owner.execute(query, (OLD,)).fetchone():
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("step", STEPS)
async def test_a_process_that_is_killed_at_any_step_leaves_one_file_and_the_same_totals(
    step: str, site: Site, owner: psycopg.Connection, recorded: str, tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    needles, toxic = STEPS[step]
    async with ToxicProxy(port_of(owner_url(owner))) as proxy:
        rule = proxy.when(*needles, toxic=toxic)
        async with metering_processes(site.through(proxy.port), 1, **retiring(folder)) as (doomed,):
            await asyncio.wait_for(rule.reached.wait(), 20)
            await doomed.kill()
            rule.drop()
        async with metering_processes(site.through(proxy.port), 2, **retiring(folder)) as processes:
            assert [await total(each, recorded) for each in processes] == [EVENTS + 1] * 2
            await dropped(owner)
            assert [await total(each, recorded) for each in processes] == [EVENTS + 1] * 2
    assert sorted(path.name for path in folder.iterdir()) == [FILE, f"{FILE}.sha256"]
    row = owner.execute("SELECT sha256, row_count FROM metering.archived_weeks WHERE week = %s", (OLD,)).fetchone()
    assert row == (hashlib.sha256((folder / FILE).read_bytes()).digest(), EVENTS)
    sealed = owner.execute(
        "SELECT sum(quantity) FROM metering.sealed_measurements WHERE organization_id = %s", (recorded,)
    ).fetchone()
    assert sealed == (EVENTS,)


def owner_url(owner: psycopg.Connection) -> str:
    return f"postgresql://{owner.info.host}:{owner.info.port}/x"


def timestamp(at: datetime) -> Timestamp:
    message = Timestamp()
    message.FromMicroseconds(unix_microseconds(at))
    return message


async def refused(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, reason_of(caught.value)


async def read_ledger(stub: Any, organization_id: str) -> None:
    request = ledger_pb2.ReadLedgerRequest(organization_id=organization_id)
    async for _ in stub.ReadLedger(request, metadata=FOLLOWER):
        pass


async def test_a_client_is_told_what_is_out_of_retention_and_gets_the_rest(
    site: Site, owner: psycopg.Connection, recorded: str, tmp_path: Path
) -> None:
    keys = {"metering": "tb_service_" + "m" * 32, "quota": FOLLOWER_KEY, "billing": BILLING_KEY}
    hashes = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in keys.items()}
    settings = retiring(tmp_path, followers="billing")
    billing = (("authorization", f"Bearer {BILLING_KEY}"),)
    async with metering_processes(site, 1, TOLLBOOK_SERVICE_KEY_HASHES=json.dumps(hashes), **settings) as (metering,):
        ledger = ledger_pb2_grpc.LedgerServiceStub(metering.channel)
        # Nothing goes before billing has confirmed; the next look is an hour away, so a new process takes it.
        await read_ledger(ledger, recorded)
        said = ledger_pb2.ConfirmedPosition(
            organization_id=recorded,
            position=feed_pb2.Position(sequence=EVENTS),
            needed_from_time=timestamp(moment(days=7)),
        )
        confirm = ledger_pb2.ConfirmPositionsRequest(positions=[said])
        assert await refused(ledger.ConfirmPositions(confirm, metadata=FOLLOWER)) == (
            "PERMISSION_DENIED",
            "SCOPE_MISSING",
        )
        assert (await ledger.ConfirmPositions(confirm, metadata=billing)).kept_count == 1
        await metering.stop()
        await metering.start()
        await dropped(owner)
        inside = timestamp(moment(hours=1, minutes=1))
        assert await refused(total(metering, recorded, start_time=inside)) == ("OUT_OF_RANGE", "OUT_OF_RETENTION")
        early = metering_pb2.QueryUsageRequest(organization_id=recorded, as_of_sequence=3)
        assert await refused(metering.stub.QueryUsage(early, metadata=ADMIN)) == ("OUT_OF_RANGE", "OUT_OF_RETENTION")
        assert await refused(read_ledger(ledger, recorded)) == ("OUT_OF_RANGE", "OUT_OF_RETENTION")
        whole = {"start_time": timestamp(moment(hours=1)), "end_time": timestamp(moment(hours=1, minutes=15))}
        assert await total(metering, recorded, **whole) == EVENTS
        listing = metering_pb2.ListUsageEventsRequest(organization_id=recorded)
        listed = await metering.stub.ListUsageEvents(listing, metadata=ADMIN)
        assert ([each.event.id for each in listed.events], listed.first_kept_sequence) == (["new-0"], EVENTS + 1)
