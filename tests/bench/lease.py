"""What a decision under a lease of the SDK costs, in one thread and when several want the same lease (P3)."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from tests.bench.table import Figure, Floor, print_table
from tollbook_sdk.clock import SystemClock
from tollbook_sdk.leases import Purse

_CALLS = 200_000
_ROUNDS = 5
_NS_PER_US = 1_000


def measure() -> list[Figure]:
    """Microseconds a call, loop included; the first is the same loop around a plain call."""
    floor = Floor(at_most=5)
    return [
        Figure(id="P3", name="  an empty call", rounds=_rounds(lambda: _calls(_nothing)), unit="µs", digits=3),
        *(
            Figure(
                id="P3", name=f"a decision under a lease{name}", rounds=_rounds(calls), unit="µs", floor=floor, digits=3
            )
            for name, calls in (
                ("", lambda: _calls(_purse().try_spend)),
                (", named task", lambda: _calls(_purse().try_spend, "task-1")),
                (", 4 threads", _four_threads),
            )
        ),
    ]


def main() -> int:
    """Prints the table. 1 when a floor is missed."""
    figures = measure()
    print_table(figures)
    return 1 if any(figure.is_missed for figure in figures) else 0


def _nothing(_quantity: int, _task_id: str = "") -> bool:
    return True


def _purse() -> Purse:
    purse = Purse(SystemClock().running)
    purse.grant(2**53 - 1, ends=float("inf"), low=0)
    return purse


def _calls(spend: Callable[[int, str], bool], task_id: str = "") -> float:
    began = time.perf_counter_ns()
    for _ in range(_CALLS):
        spend(1, task_id)
    return (time.perf_counter_ns() - began) / _CALLS / _NS_PER_US


def _four_threads() -> float:
    purse = _purse()
    threads = [threading.Thread(target=_calls, args=(purse.try_spend,)) for _ in range(4)]
    began = time.perf_counter_ns()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter_ns() - began) / (4 * _CALLS) / _NS_PER_US


def _rounds(measured: Callable[[], float]) -> list[float]:
    return [measured() for _ in range(_ROUNDS)]


if __name__ == "__main__":
    sys.exit(main())
