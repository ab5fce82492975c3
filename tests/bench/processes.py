"""What processes cost: the CPU they used and the memory they hold."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int, *, with_children: bool = False) -> float:
    """CPU that a process has used so far, in user and system mode; of a server of processes, with that of its
    children, those that ended included.
    """
    stats = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/stat")}
    own = _stat(stats[pid])
    ticks = sum(int(value) for value in own[11 : 15 if with_children else 13])
    if with_children:
        for path in stats.values():
            try:
                fields = _stat(path)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == pid:
                ticks += sum(int(value) for value in fields[11:13])
    return ticks / _TICKS_PER_SECOND


def _stat(path: Path) -> list[str]:
    """The fields after the name, from the state on."""
    return path.read_text(encoding="utf-8").rpartition(")")[2].split()
