"""Looking at processes from outside, with deadlines instead of sleeps."""

import time
from collections.abc import Callable
from pathlib import Path

_POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Wait until the condition holds; an assertion fails, saying what was waited for, when it is late."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(_POLL_SECONDS)


def is_running(pid: int) -> bool:
    """Whether the process exists and has not ended; one that only waits to be noticed has."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def working_below(folder: Path) -> list[int]:
    """Return the pids of the processes that work in the folder or below it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            works_in = (process / "cwd").readlink()
        except OSError:
            continue
        if works_in.is_relative_to(folder.resolve()) and is_running(int(process.name)):
            found.append(int(process.name))
    return found
