"""Measures checks: `python -m tests.bench.checks`. Prints one table; asserts nothing about time.

Each figure is the median of short rounds, with the lowest and the highest beside it. A ratio to the baseline E divides
by the echo just before and just after it, so that a machine that changes its pace changes both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from tests.bench.__main__ import load_averages, versions
from tests.bench.checks.figures import MEASURES, Rounds
from tests.bench.checks.house import build_client, house
from tests.bench.table import Figure, print_table

_RAW = Path(".build/bench-checks.json")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.checks", description="Measures checks.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each figure (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round (2)")
    parser.add_argument("--organizations", type=int, default=10_000, help="of P7 (10000)")
    parser.add_argument("--only", default="", help="measure only these, for example P1,P4")
    parser.add_argument("--raw", type=Path, default=_RAW, help=f"where every round is written ({_RAW})")
    return parser.parse_args()


async def _measure(arguments: argparse.Namespace) -> tuple[list[Figure], list[str]]:
    """The figures, and what could not be measured."""
    figures: list[Figure] = []
    failed: list[str] = []
    wanted = {name for name in arguments.only.split(",") if name}
    await build_client()
    rounds = Rounds(count=arguments.rounds, seconds=arguments.seconds, organizations=arguments.organizations)
    with tempfile.TemporaryDirectory(prefix="tollbook-bench-") as folder:
        async with house(Path(folder)) as parts:
            for name, measure in MEASURES.items():
                if not wanted or name in wanted:
                    started = perf_counter()
                    try:
                        figures += await measure(parts, rounds)
                    except Exception:  # noqa: BLE001 - the others are worth measuring
                        traceback.print_exc()
                        failed.append(name)
                    print(f"{name}: {perf_counter() - started:.0f} s, load {load_averages()}", flush=True)
    return figures, failed


def main() -> int:
    """Measures, prints, and keeps every round in a file. 1 when a floor is missed."""
    arguments = _arguments()
    started, load = perf_counter(), load_averages()
    figures, failed = asyncio.run(_measure(arguments))
    print()
    print_table(figures)
    print()
    print(f"load before and after: {load}; {load_averages()}")
    for name, value in versions().items():
        print(f"{name}: {value}")
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {perf_counter() - started:.0f} s in all")
    arguments.raw.parent.mkdir(parents=True, exist_ok=True)
    document = {"versions": versions(), "figures": [asdict(figure) for figure in figures]}
    arguments.raw.write_text(json.dumps(document, indent=1), encoding="utf-8")
    print(f"every round: {arguments.raw}")
    missed = [f"{figure.id} {figure.name}" for figure in figures if figure.is_missed]
    if failed:
        print(f"failed, which counts as missed: {', '.join(failed)}")
    if missed:
        print(f"missed: {'; '.join(missed)}")
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
