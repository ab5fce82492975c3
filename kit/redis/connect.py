"""Commands to whatever Redis a URL names: one server, or a cluster."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from kit.redis.client import Commands
from kit.redis.cluster import ClusterCommands, is_cluster
from kit.redis.pipe import RedisPipe


def commands_at(url: str, *, timeout_seconds: float) -> AbstractAsyncContextManager[Commands]:
    """Connects on first use. timeout_seconds: how long connecting may take, and any command whose caller does not give
    up sooner.
    """
    if is_cluster(url):
        return ClusterCommands(url, timeout_seconds=timeout_seconds)
    return RedisPipe(url, timeout_seconds=timeout_seconds)
