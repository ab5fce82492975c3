"""`tollbook replay`: a trace of LLM calls, driven through the running suite as three new customers' work."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from cli.endpoints import Endpoints, SuiteNotUp, add_state_argument, read_endpoints
from cli.replaying.customer import new_customer
from cli.replaying.drive import drive
from cli.replaying.errors import ReplayFailed
from cli.replaying.naming import new_run_id
from cli.replaying.report import Outcome, disagreements, in_words, report
from cli.replaying.settlement import settle
from cli.replaying.workload import ORGANIZATIONS, PLANS, Task, tasks_of
from cli.rpc import CallFailed, Connections, connections
from cli.trace import TraceRefused, read_trace

_DONE, _FAILED, _REFUSED, _INTERRUPTED = 0, 1, 2, 130
_PROGRESS_STEPS = 10
_RUN_ID = re.compile(r"[a-z0-9-]{1,40}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `tollbook replay` takes."""
    parser.add_argument(
        "--trace",
        type=Path,
        required=True,
        metavar="FILE",
        help="a CSV file: TIMESTAMP,ContextTokens,GeneratedTokens; at most a day long",
    )
    add_state_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument(
        "--run-id",
        type=_run_id,
        default=None,
        metavar="ID",
        help="make the organizations replay-ID-a, -b and -c; a new id for each run (made when left out)",
    )


def run(args: argparse.Namespace) -> int:
    """Replays the trace: 0 when done, 1 when the suite failed it, 2 when refused before anything was sent."""
    try:
        tasks = tasks_of(read_trace(args.trace))
        endpoints = read_endpoints(args.state)
    except (TraceRefused, SuiteNotUp) as refusal:
        _say(str(refusal))
        return _REFUSED
    try:
        found = uvloop.run(_replay(tasks, endpoints, run_id=args.run_id or new_run_id()))
    except ExceptionGroup as group:
        failures, defects = group.split((ReplayFailed, CallFailed))
        if failures is None or defects is not None:
            raise
        for failure in failures.exceptions:
            _say(f"the replay failed: {failure}")
        return _FAILED
    except KeyboardInterrupt:
        _say("interrupted")
        return _INTERRUPTED
    for difference in disagreements(found):
        _say(difference)
    print(json.dumps(found) if args.json else in_words(found))
    return _DONE


async def _replay(tasks: Sequence[Task], endpoints: Endpoints, *, run_id: str) -> dict[str, Any]:
    progress = _Progress(tasks)
    _say(f"run {run_id}: {len(tasks)} rows for " + ", ".join(f"{name} ({PLANS[name]})" for name in ORGANIZATIONS))
    began = time.monotonic()
    async with connections(endpoints, endpoints.admin_key) as admin, asyncio.TaskGroup() as group:
        running = {
            name: group.create_task(
                _replay_one(name, run_id=run_id, tasks=tasks, endpoints=endpoints, admin=admin, progress=progress)
            )
            for name in ORGANIZATIONS
        }
    outcomes = {name: task.result() for name, task in running.items()}
    return report(outcomes, rows=len(tasks), elapsed_seconds=time.monotonic() - began)


async def _replay_one(
    name: str,
    *,
    run_id: str,
    tasks: Sequence[Task],
    endpoints: Endpoints,
    admin: Connections,
    progress: _Progress,
) -> Outcome:
    own_tasks = [task for task in tasks if task.organization == name]
    async with new_customer(name, run_id, endpoints, admin) as customer:
        driven = await drive(customer, own_tasks, progress.advance)
        return Outcome(driven=driven, settled=await settle(customer))


class _Progress:
    """Says how far all organizations are together, ten times in a replay."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._total = len(tasks)
        self._done = 0
        self._step = max(self._total // _PROGRESS_STEPS, 1)

    def advance(self) -> None:
        self._done += 1
        if self._done % self._step == 0:
            _say(f"{self._done} of {self._total} rows")


def _run_id(text: str) -> str:
    if not _RUN_ID.fullmatch(text):
        msg = f"{text!r} is not 1 to 40 lower-case letters, digits and -"
        raise argparse.ArgumentTypeError(msg)
    return text


def _say(text: str) -> None:
    print(f"tollbook replay: {text}", file=sys.stderr, flush=True)
