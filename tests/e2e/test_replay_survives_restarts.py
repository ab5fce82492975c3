from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest

from tests.e2e.recompute import comparable, recompute
from tests.e2e.running_suite import SAMPLE, SERVICES, RunningSuite, finished_replay, wait_for

_RESTART_SECONDS_MAX = 30.0


def _wait_for_rows(process: subprocess.Popen[str], rows: int) -> None:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        progress = re.search(r"(\d+) of \d+ rows", line)
        if progress and int(progress[1]) >= rows:
            return
    pytest.fail(f"the replay ended before row {rows}:\n{''.join(said)}")


@pytest.mark.parametrize("service", SERVICES)
def test_killing_a_service_in_the_middle_of_a_replay_changes_no_number(suite: RunningSuite, service: str) -> None:
    replay = suite.start_replay(SAMPLE)
    try:
        _wait_for_rows(replay, 180)
        killed = suite.endpoints()["pids"][service]
        os.kill(killed, signal.SIGKILL)
        found = finished_replay(replay)
    finally:
        replay.kill()
        replay.communicate()
    assert comparable(found) == recompute(SAMPLE).numbers
    wait_for(
        lambda: suite.endpoints()["pids"].get(service) not in (None, killed),
        seconds=_RESTART_SECONDS_MAX,
        what=f"another pid of {service} in endpoints.json",
    )


def test_restarting_every_service_gently_in_the_middle_of_a_replay_changes_no_number(suite: RunningSuite) -> None:
    replay = suite.start_replay(SAMPLE)
    try:
        for rows, service in zip((60, 120, 180, 240, 300), SERVICES, strict=True):
            _wait_for_rows(replay, rows)
            os.kill(suite.endpoints()["pids"][service], signal.SIGTERM)
        found = finished_replay(replay)
    finally:
        replay.kill()
        replay.communicate()
    assert comparable(found) == recompute(SAMPLE).numbers
