"""The replay of a trace as part of a start: run by our own command line, shown in words."""

import asyncio
import contextlib
import importlib
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import httpx

from cli.suite.errors import StartFailed
from kit.process import tethered

_KEY_SECONDS_MAX = 10.0


async def replay(trace: Path, state_dir: Path, *, run_id: str, working_folder: Path) -> dict[str, Any]:
    """Drive the trace through the running suite; the object that `tollbook replay --json` prints.

    What it says meanwhile goes to our standard error. Raises StartFailed when it fails; ends it when
    cancelled.
    """
    command = (
        *(sys.executable, "-m", "cli", "replay"),
        *("--trace", str(trace), "--state", str(state_dir), "--run-id", run_id, "--json"),
    )
    process = await asyncio.create_subprocess_exec(
        *tethered(command),
        cwd=working_folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        raise StartFailed(f"the replay of {trace} ended with exit code {process.returncode}; the suite stays up")
    try:
        found = json.loads(output)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StartFailed(f"the replay of {trace} printed no JSON object; the suite stays up")
    return found


def replay_in_words(found: Mapping[str, Any]) -> str:
    """Return what a replay found for a person at a terminal."""
    # By name: the generated code behind it is not needed by a start without a replay.
    in_words = importlib.import_module("cli.replaying.report").in_words
    return cast("Callable[[Mapping[str, Any]], str]", in_words)(found)


async def customers_key(organization_id: str, *, gateway_url: str, admin_key: str) -> str:
    """Make a key for an organization, over REST as a customer's own tool would use it."""
    request = {
        "requestId": str(uuid.uuid4()),
        "apiKey": {"organizationId": organization_id, "displayName": "to try the suite"},
    }
    async with httpx.AsyncClient(trust_env=False, timeout=_KEY_SECONDS_MAX) as client:
        answer = await client.post(
            f"{gateway_url}/api/v1/api-keys", json=request, headers={"authorization": f"Bearer {admin_key}"}
        )
    return str(answer.raise_for_status().json()["secret"])
