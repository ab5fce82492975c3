from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.endpoints import SERVICES
from tests.e2e.recompute import comparable, recompute
from tests.e2e.running_suite import SAMPLE
from tests.integration.fake_services import FakeServices, Faults, fake_services

_SECONDS_MAX = 60.0


@dataclass(frozen=True, kw_only=True)
class _Ended:
    code: int
    output: str
    said: str
    fakes: FakeServices


async def _replay(folder: Path, faults: Faults, *, options: Sequence[str] = ("--json",)) -> _Ended:
    async with fake_services(faults) as (fakes, address):
        endpoints = {"gateway": "http://unused", "admin_key": "tb_admin", **dict.fromkeys(SERVICES, address)}
        (folder / "endpoints.json").write_text(json.dumps(endpoints), encoding="ascii")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", "replay", "--trace", str(SAMPLE), "--state", str(folder), *options),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_SECONDS_MAX):
                output, said = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return _Ended(code=process.returncode, output=output.decode(), said=said.decode(), fakes=fakes)


def _numbers(ended: _Ended) -> dict[str, Any]:
    """What was found, but for the invoices, which the fakes do not make."""
    assert ended.code == 0, ended.said
    numbers = comparable(json.loads(ended.output))
    del numbers["invoices"]
    return numbers


def _expected() -> dict[str, Any]:
    numbers = dict(recompute(SAMPLE).numbers)
    del numbers["invoices"]
    return numbers


async def test_numbers_equal_the_recomputation(tmp_path: Path) -> None:
    ended = await _replay(tmp_path, Faults())
    assert _numbers(ended) == _expected()
    assert ended.said.count(" of 600 rows") == 10


async def test_lost_answers_change_no_number(tmp_path: Path) -> None:
    ended = await _replay(tmp_path, Faults(lose_every=7))
    assert _numbers(ended) == _expected()
    # The keys whose secret was lost with its answer are revoked.
    assert len(ended.fakes.live_keys) == 3


async def test_answers_without_the_counters_are_asked_for_again(tmp_path: Path) -> None:
    assert _numbers(await _replay(tmp_path, Faults(degraded_checks=20))) == _expected()


async def test_rejected_event_fails_the_replay_with_its_row_and_reason(tmp_path: Path) -> None:
    ended = await _replay(tmp_path, Faults(reject_events=True))
    assert (ended.code, ended.output) == (1, "")
    assert re.search(r"row \d of organization [ABC]: its usage was not recorded: ", ended.said)
    assert "EVENT_STATUS_REJECTED (ERROR_REASON_EVENT_TOO_OLD): The event is too old." in ended.said


async def test_refused_call_fails_the_replay_with_method_and_reason(tmp_path: Path) -> None:
    ended = await _replay(tmp_path, Faults(refuse_subscriptions=True))
    assert (ended.code, ended.output) == (1, "")
    assert "CreateSubscription: NOT_FOUND (NOT_FOUND): There is no plan 'starter'." in ended.said


async def test_organizations_are_named_after_the_run(tmp_path: Path) -> None:
    ended = await _replay(tmp_path, Faults(), options=("--json", "--run-id", "here"))
    assert sorted(ended.fakes.organizations) == ["replay-here-a", "replay-here-b", "replay-here-c"]


async def test_page_for_people_tells_what_the_object_holds(tmp_path: Path) -> None:
    ended = await _replay(tmp_path, Faults(), options=())
    assert ended.code == 0, ended.said
    assert ended.output.startswith("600 rows replayed in ")
    assert "Organization A: 395 tasks allowed, 25 denied; 1,099.945 agent-minutes in the ledger" in ended.output
    assert "0.841367 USD saved (15.99 %)" in ended.output
