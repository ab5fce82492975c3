"""Measures metering and what follows it: `make bench`, or `python -m tests.bench`; part 1 of what must be proved.

Each figure is the median of short rounds, with the lowest and the highest beside it. A ratio to a baseline divides by
the runs of it just before and just after, so that a machine that changes its pace changes both. Ends with 1 when a
floor is missed, unless it was quick.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from tests.bench.catch_up import catch_up
from tests.bench.ground import Ground, Sizes, prepared
from tests.bench.heads import heads
from tests.bench.history import old_ledger
from tests.bench.ingest import batching, streams, write_path
from tests.bench.latency import latency
from tests.bench.memory import memory
from tests.bench.stores import server_version
from tests.bench.table import Figure, print_table
from tests.bench.totals import totals
from tests.bench.webhooks import webhooks

_PACKAGES = ("grpcio", "protobuf", "psycopg", "psycopg-binary", "SQLAlchemy", "uvloop", "redis", "hiredis")
_RAW = Path(".build/bench.json")
# In this order: I6 loads with half of what I2 found, A6 compares with it.
_MEASURES: Mapping[str, Callable[[Ground], Awaitable[list[Figure]]]] = {
    "I1": write_path,
    "I2": streams,
    "I4": batching,
    "I6": latency,
    "I7": old_ledger,
    "A2": totals,
    "A6": catch_up,
    "heads": heads,
    "S2": memory,
    "M5": webhooks,
}
_TOGETHER = {"I3": "I2", "I5": "I2", "disk": "I2"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measures metering and its followers.")
    parser.add_argument("ids", nargs="*", metavar="ID", help=f"measure only these: {', '.join(_ids())}")
    parser.add_argument("--quick", action="store_true", help="small and few rounds, to see that everything measures")
    parser.add_argument("--rounds", type=int, help=f"rounds of each figure ({Sizes.rounds})")
    parser.add_argument("--raw", type=Path, default=_RAW, help=f"where every round is written ({_RAW})")
    arguments = parser.parse_args()
    unknown = sorted({*arguments.ids} - {*_ids()})
    if unknown:
        parser.error(f"no figure {', '.join(unknown)}: there are {', '.join(_ids())}")
    return arguments


def _ids() -> list[str]:
    return sorted({*_MEASURES, *_TOGETHER})


def versions() -> dict[str, str]:
    """What was measured with."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpu": f"{cpu}, {len(os.sched_getaffinity(0))} usable",
        **{name: version(name) for name in _PACKAGES},
    }


def load_averages() -> str:
    """Of the machine, over 1, 5 and 15 minutes."""
    return " ".join(f"{each:.1f}" for each in os.getloadavg())


async def _measure(sizes: Sizes, wanted: set[str]) -> tuple[list[Figure], list[str], dict[str, str]]:
    """The figures, what could not be measured, and with which versions."""
    figures: list[Figure] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="tollbook-bench-") as folder:
        async with prepared(Path(folder), sizes) as ground:
            for name, measure in _MEASURES.items():
                if not wanted or name in wanted:
                    started = perf_counter()
                    try:
                        figures += await measure(ground)
                    except Exception:  # noqa: BLE001 - the others are worth measuring
                        traceback.print_exc()
                        failed.append(name)
                    print(f"{name}: {perf_counter() - started:.0f} s, load {load_averages()}", flush=True)
            return figures, failed, {**versions(), "postgres": server_version(ground.database)}


def main() -> int:
    """Measures, prints, and keeps every round in a file. 1 when a floor is missed."""
    arguments = _arguments()
    sizes = Sizes().quick() if arguments.quick else Sizes()
    if arguments.rounds:
        sizes = Sizes(**{**asdict(sizes), "rounds": arguments.rounds})
    wanted = {_TOGETHER.get(name, name) for name in arguments.ids}
    started, load = perf_counter(), load_averages()
    figures, failed, versions = asyncio.run(_measure(sizes, wanted))
    print()
    print_table(figures)
    print()
    versions["load before and after"] = f"{load}; {load_averages()}"
    for name, value in versions.items():
        print(f"{name}: {value}")
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {perf_counter() - started:.0f} s in all")
    arguments.raw.parent.mkdir(parents=True, exist_ok=True)
    document = {"versions": versions, "sizes": asdict(sizes), "figures": [asdict(figure) for figure in figures]}
    arguments.raw.write_text(json.dumps(document, indent=1), encoding="utf-8")
    print(f"every round: {arguments.raw}")
    missed = [f"{figure.id} {figure.name}" for figure in figures if figure.is_missed]
    if failed:
        print(f"failed, which counts as missed: {', '.join(failed)}")
    if missed:
        print(f"missed: {'; '.join(missed)}")
    if arguments.quick:
        print("quick: nothing is judged")
    return 1 if failed or (missed and not arguments.quick) else 0


if __name__ == "__main__":
    sys.exit(main())
