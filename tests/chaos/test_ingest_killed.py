"""F1: the process that records is killed at every point of a commit."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.toxic import Toxic, ToxicProxy
from tests.metering_process import Site, metering_processes, port_of, stored_ledger, usage_events
from tollbook.metering.v1 import metering_pb2

ACCEPTED, DUPLICATE = metering_pb2.EVENT_STATUS_ACCEPTED, metering_pb2.EVENT_STATUS_DUPLICATE


async def test_a_killed_process_loses_nothing_it_acknowledged_and_a_resend_stores_each_event_once(
    site: Site, postgres: EmbeddedPostgres, organization_id: str
) -> None:
    # The last needle is what the process is killed at: the insert, the commit, the answer to the commit.
    points = {
        "insert": ((b"insert-9",), Toxic.HOLD, ACCEPTED),
        "commit": ((b"commit-9", b"COMMIT"), Toxic.HOLD, ACCEPTED),
        "ack": ((b"ack-9", b"COMMIT"), Toxic.HOLD_ANSWER, DUPLICATE),
    }
    async with (
        ToxicProxy(port_of(postgres.url)) as proxy,
        metering_processes(site.through(proxy.port)) as (metering,),
    ):
        await metering.record(usage_events("before", 10, organization_id))
        expected = {event.id for event in usage_events("before", 10, organization_id)}
        for name, (needles, toxic, status) in points.items():
            batch = usage_events(name, 10, organization_id)
            rule = proxy.when(*needles, toxic=toxic)
            sent = asyncio.ensure_future(metering.record(batch))
            await asyncio.wait_for(rule.reached.wait(), 10)
            await metering.kill()
            rule.drop()
            with pytest.raises(grpc.aio.AioRpcError):
                await sent
            await metering.start()
            answer = await metering.record_stubbornly(batch)
            assert {result.status for result in answer.results} == {status}, name
            expected |= {event.id for event in batch}
            (await stored_ledger(postgres.url, organization_id)).assert_holds(expected)


async def test_a_killed_process_leaves_whole_batches_of_its_streams_and_a_resend_completes_them(
    site: Site, postgres: EmbeddedPostgres, organization_id: str
) -> None:
    batches = {number: usage_events(f"batch-{number}", 50, organization_id) for number in range(1, 21)}
    async with (
        ToxicProxy(port_of(postgres.url)) as proxy,
        metering_processes(site.through(proxy.port)) as (metering,),
    ):
        rule = proxy.when(b"batch-9-49", b"COMMIT", toxic=Toxic.HOLD_ANSWER)
        acknowledged: set[int] = set()
        stream = metering.stream()

        async def send() -> None:
            for number, batch in batches.items():
                await stream.write(metering_pb2.StreamUsageRequest(batch_number=number, events=batch))

        async def read() -> None:
            async for answer in stream:
                acknowledged.add(answer.batch_number)

        sides = [asyncio.create_task(send()), asyncio.create_task(read())]
        await asyncio.wait_for(rule.reached.wait(), 10)
        await metering.kill()
        rule.drop()
        await asyncio.gather(*sides, return_exceptions=True)
        stored = await stored_ledger(postgres.url, organization_id)
        for number, batch in batches.items():
            ids = {event.id for event in batch}
            assert ids <= set(stored.ids) or not ids & set(stored.ids), "half a batch is stored"
            assert number not in acknowledged or ids <= set(stored.ids), "an acknowledged batch is not stored"
        await metering.start()
        for batch in batches.values():
            await metering.record_stubbornly(batch)
        stored = await stored_ledger(postgres.url, organization_id)
        stored.assert_holds({event.id for batch in batches.values() for event in batch})
