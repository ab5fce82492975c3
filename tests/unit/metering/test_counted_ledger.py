"""What metrics say of the events that were recorded."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from prometheus_client import REGISTRY

from kit.errors import DependencyUnavailable
from services.metering.application.commit_batches import CommitBatches
from services.metering.application.counted_ledger import CountedLedger
from services.metering.domain.events import Measurement, Subject, UsageEvent
from tests.held_ledger import HeldLedger

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def event(name: str) -> UsageEvent:
    return UsageEvent(
        id=name,
        source="tests",
        subject=Subject(organization_id="a"),
        event_time_ns=int(NOW.timestamp()) * 10**9,
        measurements=(Measurement("api_calls", 1),),
    )


def counted() -> dict[str, float]:
    return {
        status: REGISTRY.get_sample_value("tollbook_metering_decided_events_total", {"status": status}) or 0.0
        for status in ("ACCEPTED", "DUPLICATE")
    }


async def test_a_retry_after_a_partial_failure_counts_no_event_again_neither_in_the_ledger_nor_in_metrics() -> None:
    """B10."""
    ledger = HeldLedger()
    ledger.holds = False
    ledger.poison = {"bad"}
    batches = CommitBatches(CountedLedger(ledger), kind="events", transactions=1)
    before = counted()

    async def send(*names: str) -> object:
        try:
            return await batches.append([event(name) for name in names], now=NOW)
        except (ValueError, DependencyUnavailable) as error:
            return error

    # One transaction of three batches fails as a whole and is tried batch by batch: one of them fails again.
    first = await asyncio.gather(send("1", "2"), send("bad", "3"), send("4"))
    assert isinstance(first[1], ValueError)
    assert {status: counted()[status] - before[status] for status in before} == {"ACCEPTED": 3, "DUPLICATE": 0}
    ledger.poison = set()
    for _ in range(2):
        await asyncio.gather(send("1", "2"), send("bad", "3"), send("4"))
    assert await ledger.count() == 5
    assert counted()["ACCEPTED"] - before["ACCEPTED"] == 5
    assert counted()["DUPLICATE"] - before["DUPLICATE"] == 3 + 5


async def test_what_was_not_committed_is_not_counted() -> None:
    ledger = HeldLedger()
    ledger.holds = False
    ledger.poison = {"1"}
    before = counted()
    with pytest.raises(ValueError, match="poison"):
        await CountedLedger(ledger).append([event("1")], now=NOW)
    assert counted() == before
