"""The Python SDK against the whole suite, over its real ports."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kit.testing.stores import free_port
from tests.e2e.line import Line
from tests.e2e.running_suite import CHECKOUT, RunningSuite, Tenant, wait_for
from tests.e2e.sdk_client import PATIENCE, Where, limits_of, set_limit, where
from tests.e2e.sdk_program import UNDER_WAY
from tollbook_sdk import (
    AsyncTollbook,
    OnUnavailable,
    QuotaDenied,
    QuotaExhausted,
    RequestRefused,
    Subject,
    SuiteUnavailable,
    Tollbook,
)
from tollbook_sdk.grpc_suite import GrpcSuite

_SECONDS = PATIENCE.total_seconds()
_MINUTE_MS = 60_000


@pytest.fixture
def at(suite: RunningSuite, tenant: Tenant) -> Where:
    return where(suite, tenant)


@pytest.fixture
def client(at: Where) -> Iterator[Tollbook]:
    with Tollbook(at.settings()) as made:
        yield made


def recorded(suite: RunningSuite, tenant: Tenant) -> dict[str, int]:
    return {row.meter: row.quantity for row in suite.recorded(tenant).rows}


def nothing_is_held(suite: RunningSuite, tenant: Tenant) -> bool:
    return all(state.held == 0 for state in limits_of(suite, tenant).values())


def start_program(name: str, at: Where, **arguments: Any) -> subprocess.Popen[str]:
    """Starts a program of sdk_program and waits until it is under way."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.sdk_program", name, json.dumps(asdict(at)), json.dumps(arguments)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == UNDER_WAY
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_task_is_held_for_while_it_runs_and_settled_to_the_millisecond_of_its_reports(
    client: Tollbook, suite: RunningSuite, tenant: Tenant
) -> None:
    with client.metered_task(estimate=timedelta(minutes=2)):
        held = {meter: state.held for meter, state in limits_of(suite, tenant).items()}
        assert (held["agent_minutes"], held["concurrent_agents"]) == (2 * _MINUTE_MS, 1)
        with pytest.raises(QuotaDenied, match="CONCURRENCY") as denied, client.metered_task():
            pytest.fail("free runs one agent at once")
        assert denied.value.limit is not None
        assert denied.value.limit.meter == "concurrent_agents"
    assert client.flush(_SECONDS)
    wait_for(lambda: nothing_is_held(suite, tenant), seconds=_SECONDS, what="nothing is held")
    assert limits_of(suite, tenant)["agent_minutes"].used == recorded(suite, tenant)["agent_minutes"]
    assert client.usage_counts.refused == client.usage_counts.waiting == 0


def test_a_task_that_outruns_its_limit_is_cancelled_and_nothing_stays_held(
    at: Where, suite: RunningSuite, tenant: Tenant
) -> None:
    set_limit(suite, tenant, "agent_minutes", 4_000)

    async def work() -> None:
        settings = at.settings(heartbeat_seconds=1.0, task_hold_seconds=5.0)
        async with AsyncTollbook(settings) as client:
            with pytest.raises(QuotaExhausted, match="LIMIT_REACHED"):
                async with asyncio.timeout(_SECONDS), client.metered_task(estimate=timedelta(seconds=2)):
                    await asyncio.get_running_loop().create_future()
            assert await client.flush(_SECONDS)

    asyncio.run(work())
    wait_for(lambda: nothing_is_held(suite, tenant), seconds=_SECONDS, what="nothing is held")


def test_a_backlog_of_usage_is_recorded_once_by_streams(
    client: Tollbook, suite: RunningSuite, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed: list[int] = []
    stream = GrpcSuite.stream

    def noted(self: GrpcSuite, requests: Sequence[Any], *, seconds: float) -> Any:
        streamed.extend(len(request.events) for request in requests)
        return stream(self, requests, seconds=seconds)

    monkeypatch.setattr(GrpcSuite, "stream", noted)
    for _ in range(6_000):
        client.record({"api_calls": 1})
    assert client.flush(_SECONDS)
    assert recorded(suite, tenant)["api_calls"] == client.usage_counts.recorded == 6_000
    assert sum(streamed) > 0


def test_a_killed_process_leaks_nothing_and_its_task_is_billed_up_to_its_last_report(
    at: Where, suite: RunningSuite, tenant: Tenant
) -> None:
    began = time.monotonic()
    process = start_program("run_a_task", at, task_id="killed", hold_seconds=3.0)
    try:
        wait_for(
            lambda: recorded(suite, tenant).get("agent_minutes", 0) >= 2_000, seconds=_SECONDS, what="two heartbeats"
        )
        assert limits_of(suite, tenant)["concurrent_agents"].held == 1
    finally:
        kill(process)
    lived_ms = (time.monotonic() - began) * 1_000
    wait_for(lambda: nothing_is_held(suite, tenant), seconds=_SECONDS, what="the hold ended by time")
    billed_ms = recorded(suite, tenant)["agent_minutes"]
    assert 2_000 <= billed_ms <= lived_ms
    assert recorded(suite, tenant)["api_calls"] == 1


def test_what_a_killed_process_had_on_disk_is_sent_once_by_the_next(
    at: Where, suite: RunningSuite, tenant: Tenant, tmp_path: Path
) -> None:
    kill(start_program("record_to_disk", at, folder=str(tmp_path), count=1_200))
    for _ in range(2):
        with Tollbook(at.settings(spool_folder=tmp_path)) as client:
            client.start()
            assert client.flush(_SECONDS)
        assert not any(tmp_path.iterdir())
    assert recorded(suite, tenant)["api_calls"] == 1_200


def test_usage_recorded_while_metering_is_away_is_counted_once_when_it_is_back(
    at: Where, suite: RunningSuite, tenant: Tenant
) -> None:
    port = free_port()
    proxied = replace(at, metering=f"127.0.0.1:{port}")
    with Tollbook(proxied.settings()) as client:
        for number in range(700):
            client.record({"api_calls": 1}, event_id=f"away-{number}")
        wait_for(lambda: client.usage_counts.waiting == 700, seconds=_SECONDS, what="all of it waits")
        with Line(at.metering, port=port):
            assert client.flush(_SECONDS)
            assert client.usage_counts.recorded == 700
    assert recorded(suite, tenant)["api_calls"] == 700


@pytest.mark.parametrize(("policy", "is_allowed"), [(OnUnavailable.ALLOW, True), (OnUnavailable.DENY, False)])
def test_a_check_that_nobody_answers_is_decided_by_the_policy(
    at: Where, policy: OnUnavailable, *, is_allowed: bool
) -> None:
    nobody = replace(at, quota=f"127.0.0.1:{free_port()}")
    with Tollbook(nobody.settings(on_unavailable=policy, check_budget_seconds=0.05)) as client:
        decision = client.check({"api_calls": 1})
        assert (decision.allowed, decision.degraded) == (is_allowed, True)
        with pytest.raises(SuiteUnavailable):
            client.lease("api_calls", 10)


def test_a_wrong_meter_and_a_wrong_key_are_errors_with_their_reason(at: Where, client: Tollbook) -> None:
    with pytest.raises(RequestRefused) as unknown:
        client.check({"no_such_meter": 1})
    assert (unknown.value.code, unknown.value.reason) == ("INVALID_ARGUMENT", "UNKNOWN_METER")
    with Tollbook(replace(at, key="tb_live_wrong").settings()) as stranger, pytest.raises(RequestRefused) as wrong:
        stranger.check({"api_calls": 1})
    assert wrong.value.reason == "CREDENTIAL_INVALID"


def test_model_calls_are_recorded_with_disjoint_tokens(client: Tollbook, suite: RunningSuite, tenant: Tenant) -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 20},
    }
    create = client.watch_openai(lambda: iter([{"model": "gpt-5", "usage": None}, {"model": "gpt-5", "usage": usage}]))
    with client.metered_task(Subject(project_id="p-1")):
        assert len(list(create())) == 2
    assert client.flush(_SECONDS)
    found = recorded(suite, tenant)
    assert {meter: found[meter] for meter in found if meter.startswith(("tokens", "api"))} == {
        "api_calls": 1,
        "tokens_input": 70,
        "tokens_cache_read": 30,
        "tokens_output": 30,
        "tokens_reasoning": 20,
    }


def test_many_leases_in_many_threads_spend_a_limit_to_the_last_and_not_beyond(
    at: Where, suite: RunningSuite, tenant: Tenant
) -> None:
    limit = 5_000
    set_limit(suite, tenant, "api_calls", limit)
    clients = [Tollbook(at.settings()) for _ in range(2)]
    spent: list[int] = []

    def spend(client: Tollbook) -> None:
        with client.lease("api_calls", 100) as lease:
            idle_since = time.monotonic()
            while time.monotonic() - idle_since < 3.0:
                if lease.try_spend(7, "some-task"):
                    idle_since = time.monotonic()
            spent.append(lease.spent)

    threads = [threading.Thread(target=spend, args=(client,)) for client in clients for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        assert client.close(_SECONDS)
    assert recorded(suite, tenant)["api_calls"] == sum(spent) <= limit
    wait_for(
        lambda: limits_of(suite, tenant)["api_calls"].used == sum(spent) and nothing_is_held(suite, tenant),
        seconds=_SECONDS,
        what="all of it counted and nothing held",
    )


def test_f18_a_partition_of_30_seconds_overshoots_by_no_more_than_the_leases(
    at: Where, suite: RunningSuite, tenant: Tenant
) -> None:
    limit, size, count = 1_000, 50, 3
    set_limit(suite, tenant, "api_calls", limit)
    with Line(at.quota) as quota, Line(at.metering) as metering:
        cut_off = Tollbook(replace(at, quota=quota.address, metering=metering.address).settings(call_seconds=2.0))
        leases = [
            cut_off.lease("api_calls", size, hold=timedelta(seconds=6), margin=timedelta(seconds=1))
            for _ in range(count)
        ]
        quota.cut()
        metering.cut()
        mended_at = time.monotonic() + 30.0
        for lease in leases:
            assert lease.try_spend(size)
        wait_for(lambda: not any(lease.is_valid for lease in leases), seconds=_SECONDS, what="the leases stopped")
        wait_for(lambda: nothing_is_held(suite, tenant), seconds=_SECONDS, what="their holds ended")
        with Tollbook(at.settings()) as other, other.lease("api_calls", limit) as everything:
            assert everything.try_spend(limit)
            assert not any(lease.try_spend(1) for lease in leases)
            time.sleep(max(0.0, mended_at - time.monotonic()))
            quota.mend()
            metering.mend()
            assert cut_off.close(_SECONDS)
    wait_for(
        lambda: limits_of(suite, tenant)["api_calls"].used == limit + size * count, seconds=_SECONDS, what="all counted"
    )
    assert recorded(suite, tenant)["api_calls"] == limit + size * count
