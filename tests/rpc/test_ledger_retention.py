"""ConfirmPositions, and a feed whose first events are gone, over a real channel."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from kit.feed import Position
from kit.grpc.errors import reason_of
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.testing.servers import KnownKeys, serving
from services.metering.adapters.memory import MemoryLedger
from services.metering.adapters.memory_retention import MemoryRetention
from services.metering.domain import limits
from services.metering.domain.retention import Confirmation
from tests.metering_house import ledger_servicer
from tests.usage_model import usage
from tollbook.feed.v1 import feed_pb2
from tollbook.metering.v1 import ledger_pb2, ledger_pb2_grpc

NOW = datetime(2026, 6, 20, tzinfo=UTC)
KEYS = {name: f"tb_service_{name}_of_tests_0123456789012345" for name in ("quota", "billing", "analytics")}


def key(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {KEYS[name]}"),)


@pytest.fixture
async def ledger() -> MemoryLedger:
    memory = MemoryLedger()
    for organization_id in ("acme", "globex"):
        await memory.append([usage(str(number), NOW, organization_id=organization_id) for number in range(4)], now=NOW)
    return memory


@pytest.fixture
def retention(ledger: MemoryLedger) -> MemoryRetention:
    return MemoryRetention(ledger)


@pytest.fixture
async def channel(ledger: MemoryLedger, retention: MemoryRetention) -> AsyncIterator[grpc.aio.Channel]:
    async def prepare() -> None:
        return None

    hashes = {name: hashlib.sha256(secret.encode()).hexdigest() for name, secret in KEYS.items()}
    application = Application(
        authenticator=Authenticator(KnownKeys({}), hashes),
        servicers=[ledger_servicer(ledger, confirmations=retention)],
        prepare=prepare,
    )
    async with serving(application) as channel:
        yield channel


def position(organization_id: str, sequence: int, **more: Any) -> ledger_pb2.ConfirmedPosition:
    return ledger_pb2.ConfirmedPosition(
        organization_id=organization_id, position=feed_pb2.Position(sequence=sequence), **more
    )


async def confirm(channel: grpc.aio.Channel, name: str, *positions: ledger_pb2.ConfirmedPosition) -> int:
    request = ledger_pb2.ConfirmPositionsRequest(positions=positions)
    answer = await ledger_pb2_grpc.LedgerServiceStub(channel).ConfirmPositions(request, metadata=key(name))
    return answer.kept_count


async def refused(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, reason_of(caught.value)


async def test_each_service_confirms_for_itself(channel: grpc.aio.Channel, retention: MemoryRetention) -> None:
    needed_from = NOW - timedelta(days=1)
    said = position("acme", 3)
    said.needed_from_time.FromDatetime(needed_from)
    assert await confirm(channel, "billing", said, position("globex", 4)) == 2
    assert await confirm(channel, "analytics", position("acme", 1)) == 1
    assert await retention.confirmations() == {
        ("billing", "acme"): Confirmation("acme", Position(3, ""), needed_from),
        ("billing", "globex"): Confirmation("globex", Position(4, ""), None),
        ("analytics", "acme"): Confirmation("acme", Position(1, ""), None),
    }


async def test_what_is_ahead_of_a_ledger_or_of_none_is_not_kept(
    channel: grpc.aio.Channel, retention: MemoryRetention
) -> None:
    assert await confirm(channel, "billing", position("acme", 5), position("nobody", 1), position("globex", 2)) == 1
    assert list(await retention.confirmations()) == [("billing", "globex")]


async def test_a_confirmation_that_makes_no_sense_is_refused(channel: grpc.aio.Channel) -> None:
    many = [position(f"org-{number}", 1) for number in range(limits.CONFIRMATIONS_MAX + 1)]
    fine = position("acme", 1)
    fine.needed_from_time.nanos = 1
    for positions, reason in (
        ([], "INVALID_FIELD"),
        (many, "LIMIT_EXCEEDED"),
        ([position("acme", 1), position("acme", 2)], "INVALID_FIELD"),
        ([position("acme", -1)], "INVALID_FIELD"),
        ([position("", 1)], "ORGANIZATION_REQUIRED"),
        ([position("A b", 1)], "INVALID_FIELD"),
        ([fine], "INVALID_FIELD"),
    ):
        assert await refused(confirm(channel, "billing", *positions)) == ("INVALID_ARGUMENT", reason)
    assert await refused(confirm(channel, "quota", position("acme", 1))) == ("PERMISSION_DENIED", "SCOPE_MISSING")


async def test_a_follower_before_the_horizon_is_told_so(channel: grpc.aio.Channel, ledger: MemoryLedger) -> None:
    ledger.drop("acme", upto=2)
    stub = ledger_pb2_grpc.LedgerServiceStub(channel)

    async def read(sequence: int) -> list[int]:
        request = ledger_pb2.ReadLedgerRequest(organization_id="acme", after=feed_pb2.Position(sequence=sequence))
        pages = stub.ReadLedger(request, metadata=key("quota"))
        return [event.sequence async for page in pages for event in page.events]

    for sequence in (0, 1):
        assert await refused(read(sequence)) == ("OUT_OF_RANGE", "OUT_OF_RETENTION")
