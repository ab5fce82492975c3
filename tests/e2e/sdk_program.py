"""A program that uses the SDK and is killed: python -m tests.e2e.sdk_program NAME WHERE ARGUMENTS."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.sdk_client import PATIENCE, Where
from tollbook_sdk import Subject, Tollbook

UNDER_WAY = "under way\n"
_LOOK_SECONDS = 0.01


def run_a_task(at: Where, *, task_id: str, hold_seconds: float) -> None:
    """Runs a task that records a call and never ends."""
    client = Tollbook(at.settings(heartbeat_seconds=1.0, task_hold_seconds=hold_seconds))
    with client.metered_task(Subject(task_id=task_id)):
        client.record({"api_calls": 1})
        client.flush(PATIENCE.total_seconds())
        _hang()


def record_to_disk(at: Where, *, folder: str, count: int) -> None:
    """Records where nobody answers, until all of it is on disk."""
    client = Tollbook(at.settings(metering="127.0.0.1:1", spool_folder=Path(folder)))
    for number in range(count):
        client.record({"api_calls": 1}, event_id=f"spooled-{number}")
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while sum(path.read_bytes().count(b"spooled-") for path in Path(folder).glob("*.spool")) < count:
        assert time.monotonic() < deadline, "not all of it is on disk"
        time.sleep(_LOOK_SECONDS)
    _hang()


def _hang() -> None:
    sys.stdout.write(UNDER_WAY)
    sys.stdout.flush()
    signal.pause()


if __name__ == "__main__":
    programs: dict[str, Callable[..., None]] = {"run_a_task": run_a_task, "record_to_disk": record_to_disk}
    programs[sys.argv[1]](Where(**json.loads(sys.argv[2])), **json.loads(sys.argv[3]))
