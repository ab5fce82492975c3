"""What tests of every kind share: real stores, one of each per run, and roles as in production."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import grpc
import pytest
from hypothesis import HealthCheck, settings

from kit.postgres.embedded import EmbeddedPostgres
from kit.postgres.migrate import migrate
from kit.redis.embedded import EmbeddedRedis
from kit.testing.redis_cluster import temporary_cluster
from kit.testing.stores import temporary_postgres, temporary_redis
from tests.stripe_mock import running_stripe_mock

# gRPC's poller ends with the last channel or server of a process, and waits for their calls: a test that failed and
# left some behind would have the garbage collector wait for ever in another test. Held here, it ends with the process.
grpc.aio.init_grpc_aio()

# How long an example takes is no property of the code: on a busy machine both would fail at random.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

ROLE_KINDS = ("tenant", "writer", "fleet")

RoleUrls = dict[str, str]


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL for the whole run; tests keep apart by organization ids of their own."""
    with temporary_postgres(not_durable=True) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """A Redis for the whole run; tests keep apart by organization ids of their own."""
    with temporary_redis(not_durable=True) as server:
        yield server


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    """A Redis Cluster of three nodes for the whole run."""
    with temporary_cluster() as url:
        yield url


@pytest.fixture(scope="session")
def stripe_mock() -> Iterator[str]:
    """The URL of Stripe's own mock server, which refuses every request that Stripe's OpenAPI document forbids."""
    with running_stripe_mock() as url:
        yield url


@pytest.fixture(scope="session")
def migrated(postgres: EmbeddedPostgres) -> Callable[[str], RoleUrls]:
    """Brings a service's schema up once and answers the URL of each of its roles, by kind."""
    done: dict[str, RoleUrls] = {}

    def urls(service: str) -> RoleUrls:
        if service not in done:
            passwords = {kind: f"{kind}-password-of-tests" for kind in ROLE_KINDS}
            migrate(postgres.url, service, passwords)
            place = urlsplit(postgres.url)
            done[service] = {
                kind: f"postgresql://tollbook_{service}_{kind}:{password}@{place.hostname}:{place.port}{place.path}"
                for kind, password in passwords.items()
            }
        return done[service]

    return urls
