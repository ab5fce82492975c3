"""F5: Postgres ends a session, restarts, crashes, pauses, or refuses, while usage is recorded."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psycopg
import pytest
import pytest_asyncio

from kit.grpc.errors import reason_of, retry_delay_of
from kit.postgres.embedded import EmbeddedPostgres
from kit.postgres.migrate import migrate
from kit.testing.stores import free_port
from kit.testing.toxic import Toxic, ToxicProxy
from tests.conftest import ROLE_KINDS
from tests.metering_process import (
    MeteringProcess,
    RecordCall,
    Site,
    metering_processes,
    port_of,
    resident_bytes,
    serving_accounts,
    stored_ledger,
    usage_events,
)
from tollbook.metering.v1 import metering_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACCEPTED = metering_pb2.EVENT_STATUS_ACCEPTED
PAUSE_SECONDS = 10.0
# What Postgres says when a disk is full, transactions cannot be serialized, deadlock, a lock or a statement takes long,
# or it takes no writes (a standby, a server that its operator or a full disk made read-only).
REFUSALS = ("53100", "40001", "40P01", "55P03", "57014", "25006")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A process, and a durable Postgres of its own behind a proxy."""

    postgres: EmbeddedPostgres
    proxy: ToxicProxy
    metering: MeteringProcess

    async def owner(self, statement: str) -> None:
        """Runs statements as the owner."""
        async with await psycopg.AsyncConnection.connect(self.postgres.url, autocommit=True) as owner:
            await owner.execute(statement.encode())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("postgres")
    async with durable_postgres(folder) as postgres:
        passwords = {kind: f"{kind}-password-of-tests" for kind in ROLE_KINDS}
        migrate(postgres.url, "metering", passwords)
        place = postgres.url.rpartition("@")[2]
        urls = {
            kind: f"postgresql://tollbook_metering_{kind}:{password}@{place}" for kind, password in passwords.items()
        }
        async with (
            serving_accounts() as accounts_address,
            ToxicProxy(port_of(postgres.url)) as proxy,
            metering_processes(
                Site(urls=urls, accounts_address=accounts_address, log_path=folder / "metering.log").through(proxy.port)
            ) as (metering,),
        ):
            yield Scene(postgres=postgres, proxy=proxy, metering=metering)


@asynccontextmanager
async def durable_postgres(folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A Postgres of this loop, which the tests may stop and start."""
    server = EmbeddedPostgres(folder / "state", free_port())
    try:
        await server.start()
        await server.wait_ready(60.0)
        yield server
    finally:
        await server.stop(10.0)


async def refused(call: RecordCall) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, reason_of(caught.value)


UNAVAILABLE = ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")


async def test_a_session_ended_in_its_transaction_stores_nothing_until_the_resend(
    scene: Scene, organization_id: str
) -> None:
    batch = usage_events(f"ended-{organization_id}", 10, organization_id)
    rule = scene.proxy.when(batch[-1].id.encode(), b"COMMIT", toxic=Toxic.HOLD)
    sent = scene.metering.record(batch)
    await asyncio.wait_for(rule.reached.wait(), 10)
    await scene.owner(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE usename = 'tollbook_metering_writer' AND state LIKE 'idle in transaction%'"
    )
    rule.release()
    assert await refused(sent) == UNAVAILABLE
    (await stored_ledger(scene.postgres.url, organization_id)).assert_holds(set())
    assert {result.status for result in (await scene.metering.record_stubbornly(batch)).results} == {ACCEPTED}


async def test_a_transaction_that_postgres_refuses_is_unavailable_and_the_resend_is_stored_once(
    scene: Scene, organization_id: str
) -> None:
    batches = {state: usage_events(f"refuse-{state}-{organization_id}", 10, organization_id) for state in REFUSALS}
    await scene.owner("""
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'refused by the test' USING ERRCODE = split_part(NEW.id, '-', 2); END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON metering.events FOR EACH ROW
            WHEN (NEW.id LIKE 'refuse-%') EXECUTE FUNCTION public.refuse();
    """)
    try:
        for batch in batches.values():
            assert await refused(scene.metering.record(batch)) == UNAVAILABLE
    finally:
        await scene.owner("DROP TRIGGER refuse ON metering.events; DROP FUNCTION public.refuse()")
    (await stored_ledger(scene.postgres.url, organization_id)).assert_holds(set())
    for batch in batches.values():
        assert {result.status for result in (await scene.metering.record(batch)).results} == {ACCEPTED}
    expected = {event.id for batch in batches.values() for event in batch}
    (await stored_ledger(scene.postgres.url, organization_id)).assert_holds(expected)


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGQUIT], ids=["restart", "crash"])
async def test_what_was_acknowledged_survives_the_end_of_postgres_and_the_rest_is_completed_by_resending(
    scene: Scene, organization_id: str, stop_signal: signal.Signals
) -> None:
    batches = [usage_events(f"batch-{number:03}", 20, organization_id) for number in range(150)]
    waiting = list(batches)
    acknowledged: set[str] = set()
    enough = asyncio.Event()

    async def sender() -> None:
        while waiting:
            batch = waiting.pop()
            await scene.metering.record_stubbornly(batch)
            acknowledged.update(event.id for event in batch)
            if len(waiting) < len(batches) // 2:
                enough.set()

    senders = [asyncio.create_task(sender()) for _ in range(8)]
    await enough.wait()
    before = set(acknowledged)
    assert scene.postgres.pid is not None
    os.kill(scene.postgres.pid, stop_signal)
    await scene.postgres.wait()
    await scene.postgres.start()
    await scene.postgres.wait_ready(60.0)
    assert before <= set((await stored_ledger(scene.postgres.url, organization_id)).ids)
    await asyncio.gather(*senders)
    expected = {event.id for batch in batches for event in batch}
    assert acknowledged == expected
    (await stored_ledger(scene.postgres.url, organization_id)).assert_holds(expected)


async def test_a_pause_of_postgres_is_back_pressure_with_bounded_memory_and_loses_nothing(
    scene: Scene, organization_id: str
) -> None:
    batches = [usage_events(f"batch-{number}", 5_000, organization_id) for number in range(12)]
    await scene.metering.record(usage_events("before", 10, organization_id))
    before = resident_bytes(scene.metering.pid)
    stopped = _family(scene.postgres.pid)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        calls = [scene.metering.record(batch, seconds=60) for batch in batches]
        done, held = await asyncio.wait([asyncio.ensure_future(_ended(call)) for call in calls], timeout=PAUSE_SECONDS)
        errors = [task.result() for task in done]
        assert resident_bytes(scene.metering.pid) - before < 400 * 1024 * 1024
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert 0 < len(errors) < len(batches)
    for error in errors:
        assert error is not None, "a batch was acknowledged while Postgres stood still"
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert retry_delay_of(error) is not None
    assert [task.result() for task in (await asyncio.wait(held))[0]] == [None] * len(held)
    for batch in batches:
        await scene.metering.record_stubbornly(batch)
    expected = {event.id for batch in batches for event in batch} | {f"before-{number}" for number in range(10)}
    (await stored_ledger(scene.postgres.url, organization_id)).assert_holds(expected)


async def _ended(call: RecordCall) -> grpc.aio.AioRpcError | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    return None


def _family(pid: int | None) -> list[int]:
    """A process and its children: the server and its sessions."""
    assert pid is not None
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            children.append(int(stat.parent.name))
    return [pid, *children]
