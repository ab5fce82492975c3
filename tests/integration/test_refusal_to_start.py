"""What a service does when it is started wrongly, as a process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.stores import free_port

EXIT_BAD_SETTINGS, EXIT_REFUSED_TO_START = 2, 3
START_SECONDS_MAX = 30
ROLE = "tollbook_unsafe_tenant"


@pytest.fixture
def environment(migrated: Callable[[str], dict[str, str]]) -> dict[str, str]:
    urls = migrated("accounts")
    key = f"tb_service_{'x' * 43}"
    return {
        "PATH": os.environ["PATH"],
        "TOLLBOOK_LISTEN_ADDRESS": f"127.0.0.1:{free_port()}",
        "TOLLBOOK_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
        "TOLLBOOK_SERVICE_KEY": key,
        "TOLLBOOK_SERVICE_KEY_HASHES": f'{{"accounts": "{hashlib.sha256(key.encode()).hexdigest()}"}}',
        "TOLLBOOK_ADMIN_KEY_SHA256": hashlib.sha256(b"admin").hexdigest(),
        "TOLLBOOK_POSTGRES_TENANT_URL": urls["tenant"],
        "TOLLBOOK_POSTGRES_FLEET_URL": urls["fleet"],
    }


@pytest.fixture
def unsafe_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The URL of a role that row-level security does not hold."""
    place = urlsplit(postgres.url)
    with psycopg.connect(postgres.url, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN BYPASSRLS PASSWORD 'unsafe'").format(sql.Identifier(ROLE)))
        yield f"postgresql://{ROLE}:unsafe@{place.hostname}:{place.port}{place.path}"
        owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(ROLE)))


def start(environment: dict[str, str], service: str = "accounts") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"services.{service}"]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=START_SECONDS_MAX, check=False
    )


def test_a_service_refuses_to_start_on_a_role_that_bypasses_row_security(
    environment: dict[str, str], unsafe_url: str
) -> None:
    ended = start(environment | {"TOLLBOOK_POSTGRES_TENANT_URL": unsafe_url})
    assert ended.returncode == EXIT_REFUSED_TO_START
    assert f"role {ROLE} bypasses row-level security" in ended.stderr


def test_a_service_refuses_to_start_as_the_owner(environment: dict[str, str], postgres: EmbeddedPostgres) -> None:
    ended = start(environment | {"TOLLBOOK_POSTGRES_FLEET_URL": postgres.url})
    assert ended.returncode == EXIT_REFUSED_TO_START
    assert "is a superuser" in ended.stderr


def test_quota_refuses_to_start_on_an_unsafe_role_too(
    environment: dict[str, str], unsafe_url: str, migrated: Callable[[str], dict[str, str]]
) -> None:
    nowhere = "127.0.0.1:1"
    quota = environment | {
        "TOLLBOOK_REDIS_URL": f"redis://{nowhere}",
        **{f"TOLLBOOK_{peer}_ADDRESS": nowhere for peer in ("METERING", "BILLING", "ACCOUNTS")},
        "TOLLBOOK_POSTGRES_TENANT_URL": migrated("quota")["tenant"],
        "TOLLBOOK_POSTGRES_FLEET_URL": unsafe_url,
    }
    ended = start(quota, "quota")
    assert ended.returncode == EXIT_REFUSED_TO_START
    assert f"role {ROLE} bypasses row-level security" in ended.stderr


def test_a_missing_and_a_bad_setting_are_both_named(environment: dict[str, str]) -> None:
    del environment["TOLLBOOK_POSTGRES_TENANT_URL"]
    ended = start(environment | {"TOLLBOOK_LISTEN_ADDRESS": "nowhere"})
    assert ended.returncode == EXIT_BAD_SETTINGS
    assert "TOLLBOOK_POSTGRES_TENANT_URL" in ended.stderr
    assert "TOLLBOOK_LISTEN_ADDRESS" in ended.stderr
    assert "Traceback" not in ended.stderr
