"""What a decision under a lease of the SDK costs, in one thread and when several want the same lease (P3)."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

from tollbook_sdk.clock import SystemClock
from tollbook_sdk.leases import Purse

_CALLS = 200_000
_ROUNDS = 5
_NS_PER_US = 1_000


def measure() -> dict[str, float]:
    """Microseconds a call: the median of the rounds, loop included; `empty` is the same loop around a plain call."""
    return {
        "empty": _median(lambda: _calls(_nothing)),
        "try_spend": _median(lambda: _calls(_purse().try_spend)),
        "try_spend, named task": _median(lambda: _calls(_purse().try_spend, "task-1")),
        "try_spend, 4 threads": _median(_four_threads),
    }


def main() -> None:
    """Prints the table."""
    for name, microseconds in measure().items():
        print(f"{name:24} {microseconds:8.3f} us")


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


def _median(measured: Callable[[], float]) -> float:
    return statistics.median(measured() for _ in range(_ROUNDS))


if __name__ == "__main__":
    main()
