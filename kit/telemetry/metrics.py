"""Prometheus metrics: the ones every server has, and the endpoint that shows them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import REGISTRY, Counter, Gauge, start_http_server
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

RPC_SECONDS_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
READY = Gauge("tollbook_ready", "1 while this process takes calls.")
WORKER_RESTARTS = Counter("tollbook_worker_restarts_total", "Background loops that failed and began again.", ["worker"])
FOLLOWER_LAG = Gauge(
    "tollbook_follower_lag_entries",
    "Entries of the feed, over all keys, that this follower has not applied.",
    ["feed"],
)


class CallMeasures:
    """What is measured of the calls of one method. The event loop alone notes them, so they need none of the locks of
    prometheus_client's own metrics, which cost some microseconds of every call.
    """

    def __init__(self) -> None:
        self.within = [0] * (len(RPC_SECONDS_BOUNDS) + 1)
        """Calls by the first bound that they took no longer than; the last took longer than all."""
        self.seconds = 0.0
        self.codes = Counts[str]()

    def note(self, seconds: float, code: str = "OK") -> None:
        """A call took so long and ended so."""
        self.within[bisect_left(RPC_SECONDS_BOUNDS, seconds)] += 1
        self.seconds += seconds
        self.codes[code] += 1


class _Calls(Collector):
    """The calls that this process served, by method."""

    def __init__(self) -> None:
        self.by_method = defaultdict[str, CallMeasures](CallMeasures)

    def collect(self) -> Iterator[Metric]:
        """As Collector; in the thread that answers GET /metrics."""
        times = HistogramMetricFamily(
            "tollbook_rpc_seconds", "How long calls took that this process served.", labels=["method"]
        )
        ends = CounterMetricFamily(
            "tollbook_rpc", "Calls that this process answered, by status code.", labels=["method", "code"]
        )
        bounds = [*map(floatToGoString, RPC_SECONDS_BOUNDS), "+Inf"]
        for method, measures in list(self.by_method.items()):
            times.add_metric([method], list(zip(bounds, accumulate(measures.within), strict=True)), measures.seconds)
            for code, count in list(measures.codes.items()):
                ends.add_metric([method, code], count)
        yield times
        yield ends


_CALLS = _Calls()
REGISTRY.register(_CALLS)


def measures_of(method: str) -> CallMeasures:
    """Where the calls of a method are noted: one place for the process."""
    return _CALLS.by_method[method]


def serve_metrics(address: str) -> str:
    """Answers GET /metrics on `host:port` from a daemon thread, and says where: port 0 is any free one. Raises OSError
    when the port is taken.
    """
    host, _, port = address.rpartition(":")
    server, _ = start_http_server(int(port), addr=host)
    return f"{host}:{server.server_port}"
