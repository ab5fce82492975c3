"""Measures ingest: `make bench`, or `python -m tests.bench`. Prints one table; asserts nothing about time.

Each figure is the median of short rounds, with the lowest and the highest beside it. A ratio to the baseline C divides
by the COPY just before and just after it, so that a machine that changes its pace changes both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from tests.bench.ingest import Bench, bench
from tests.bench.table import Figure, print_table

_PACKAGES = ("grpcio", "protobuf", "psycopg", "psycopg-binary", "SQLAlchemy", "uvloop", "redis", "hiredis")
_RAW = Path(".build/bench.json")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measures ingest.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each figure (5)")
    parser.add_argument("--events", type=int, default=20_000, help="events of each round (20000)")
    parser.add_argument(
        "--old-millions", type=float, default=2.0, help="millions of old identities in the aged ledger (2)"
    )
    parser.add_argument("--only", default="", help="measure only these, for example I1,I6")
    parser.add_argument("--raw", type=Path, default=_RAW, help=f"where every round is written ({_RAW})")
    return parser.parse_args()


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


async def _measure(arguments: argparse.Namespace) -> tuple[list[Figure], dict[str, str]]:
    figures: list[Figure] = []
    wanted = {name for name in arguments.only.split(",") if name}
    with tempfile.TemporaryDirectory(prefix="tollbook-bench-") as folder:
        async with bench(
            Path(folder), rounds=arguments.rounds, events=arguments.events, old_millions=arguments.old_millions
        ) as parts:
            measures: dict[str, Callable[[Bench], Awaitable[list[Figure]]]] = Bench.MEASURES
            for name, measure in measures.items():
                if not wanted or name in wanted:
                    started = perf_counter()
                    figures += await measure(parts)
                    print(f"{name}: {perf_counter() - started:.0f} s", flush=True)
            return figures, {**versions(), "postgres": parts.server_version}


def main() -> None:
    """Measures, prints, and keeps every round in a file."""
    arguments = _arguments()
    started = perf_counter()
    figures, versions = asyncio.run(_measure(arguments))
    print()
    print_table(figures)
    print()
    for name, value in versions.items():
        print(f"{name}: {value}")
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {perf_counter() - started:.0f} s in all")
    arguments.raw.parent.mkdir(parents=True, exist_ok=True)
    document = {"versions": versions, "figures": [asdict(figure) for figure in figures]}
    arguments.raw.write_text(json.dumps(document, indent=1), encoding="utf-8")
    print(f"every round: {arguments.raw}")


if __name__ == "__main__":
    main()
