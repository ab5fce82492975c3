from __future__ import annotations

import random
import re
import stat
from pathlib import Path

import pytest

from tests.e2e.recompute import comparable, recompute
from tests.e2e.running_suite import SAMPLE, RunningSuite, finished_replay, tollbook

_KEYS = {
    "rows",
    "allowed",
    "denied",
    "agent_ms",
    "ledger_agent_ms",
    "quota_used_ms",
    "invoices",
    "cost",
    "check_ms",
    "elapsed_seconds",
}


def _trace_of_long_tasks(folder: Path) -> Path:
    """Seventy tasks of a quarter to a whole hour, with small ones between: A is full after some thirty of its own."""
    dice = random.Random(5)
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    for row in range(70):
        generated = dice.randrange(9_000, 36_000) if row % 4 else dice.randrange(200)
        lines.append(f"2026-02-28 23:{row // 2:02}:{row % 2 * 30:02}.{dice.randrange(10**7):07},{row * 37},{generated}")
    path = folder / "long_tasks.csv"
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    return path


def test_replay_of_the_sample_equals_the_recomputation_to_the_millisecond_and_the_cent(suite: RunningSuite) -> None:
    found = suite.replay(SAMPLE)
    assert comparable(found) == recompute(SAMPLE).numbers
    assert set(found) == _KEYS
    assert 0 < found["check_ms"]["p50"] <= found["check_ms"]["p99"]


def test_organization_a_runs_through_its_grace_band_into_its_hard_stop(suite: RunningSuite, tmp_path: Path) -> None:
    trace = _trace_of_long_tasks(tmp_path)
    expected = recompute(trace)
    assert expected.in_grace["A"] > 0
    assert expected.numbers["denied"]["A"] > 0
    # A denial says nothing about a smaller task.
    assert expected.allowed_after_a_denial["A"] > 0
    assert comparable(suite.replay(trace)) == expected.numbers


def test_trace_of_one_row_leaves_two_organizations_with_their_base_fee_alone(
    suite: RunningSuite, tmp_path: Path
) -> None:
    trace = tmp_path / "one.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2026-02-28 23:59:59.9999999,0,0", encoding="ascii")
    found = suite.replay(trace)
    assert comparable(found) == recompute(trace).numbers
    assert [found["invoices"][name]["total"] for name in "ABC"] == ["49.00", "149.00", "499.00"]


def test_replays_do_not_disturb_each_other(suite: RunningSuite, tmp_path: Path) -> None:
    trace = _trace_of_long_tasks(tmp_path)
    replays = [suite.start_replay(trace), suite.start_replay(trace)]
    expected = recompute(trace).numbers
    assert [comparable(finished_replay(replay)) for replay in replays] == [expected, expected]


def test_replay_without_json_is_a_page_for_people(suite: RunningSuite, tmp_path: Path) -> None:
    done = tollbook("replay", "--trace", _trace_of_long_tasks(tmp_path), "--state", suite.state_dir)
    assert done.returncode == 0, done.stderr
    assert "70 rows replayed" in done.stdout
    assert re.search(r"Organization A: \d+ tasks allowed, \d+ denied", done.stdout)
    assert "invoice total" in done.stdout


def test_endpoints_are_readable_by_their_owner_only(suite: RunningSuite) -> None:
    assert stat.S_IMODE((suite.state_dir / "endpoints.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("run_id", ["UPPER", "", "with space", "x" * 41], ids=["capitals", "empty", "space", "long"])
def test_run_id_that_could_not_name_an_organization_is_refused(run_id: str) -> None:
    done = tollbook("replay", "--trace", SAMPLE, "--run-id", run_id)
    assert (done.returncode, done.stdout) == (2, "")
    assert "lower-case letters, digits and -" in done.stderr
