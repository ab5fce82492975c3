"""Prometheus metrics: the ones every server has, and the endpoint that shows them."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, start_http_server

RPC_SECONDS = Histogram(
    "tollbook_rpc_seconds",
    "How long calls took that this process served.",
    ["method"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
RPC_TOTAL = Counter("tollbook_rpc_total", "Calls that this process answered, by status code.", ["method", "code"])
READY = Gauge("tollbook_ready", "1 while this process takes calls.")
WORKER_RESTARTS = Counter("tollbook_worker_restarts_total", "Background loops that failed and began again.", ["worker"])
FOLLOWER_LAG = Gauge(
    "tollbook_follower_lag_entries",
    "Entries of the feed, over all keys, that this follower has not applied.",
    ["feed"],
)


def serve_metrics(address: str) -> str:
    """Answers GET /metrics on `host:port` from a daemon thread, and says where: port 0 is any free one. Raises OSError
    when the port is taken.
    """
    host, _, port = address.rpartition(":")
    server, _ = start_http_server(int(port), addr=host)
    return f"{host}:{server.server_port}"
