"""The promises of the accounts' ports, on memory and on Postgres."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from kit.errors import AlreadyExists, InvalidField, LimitExceeded, NotFound, RequestIdReused
from kit.postgres.database import Database
from kit.testing.clock import FakeClock
from services.accounts.adapters.memory import MemoryApiKeys, MemoryOrganizations
from services.accounts.adapters.postgres_accounts import PostgresApiKeys, PostgresOrganizations
from services.accounts.application.api_keys import KeyRequest, ManageApiKeys
from services.accounts.application.organizations import CreateOrganization, ReadOrganizations
from services.accounts.application.ports import ApiKeys, Organizations
from services.accounts.domain.organizations import Organization

GRANTABLE = frozenset({4, 5, 6})


@dataclass
class Accounts:
    organizations: Organizations
    api_keys: ApiKeys
    clock: FakeClock
    prefix: str

    @property
    def keys(self) -> ManageApiKeys:
        return ManageApiKeys(self.api_keys, self.clock)

    async def create(self, request_id: str = "1", organization_id: str = "", name: str = "Acme") -> Organization:
        return await CreateOrganization(self.organizations, self.clock)(
            request_id=f"{self.prefix}{request_id}", organization_id=organization_id, display_name=name, time_zone=""
        )

    def key_request(self, request_id: str = "1") -> KeyRequest:
        return KeyRequest(
            request_id=request_id, organization_id=self.prefix, display_name="ci", scopes=(), expire_time=None
        )


@pytest.fixture(params=["memory", "postgres"])
async def accounts(
    request: pytest.FixtureRequest, migrated: Callable[[str], dict[str, str]]
) -> AsyncIterator[Accounts]:
    clock, prefix = FakeClock(datetime.now(UTC)), f"org-{uuid4().hex}"
    if request.param == "memory":
        yield Accounts(MemoryOrganizations(), MemoryApiKeys(), clock, prefix)
        return
    urls = migrated("accounts")
    tenant, fleet = Database(urls["tenant"]), Database(urls["fleet"])
    yield Accounts(PostgresOrganizations(tenant, fleet), PostgresApiKeys(tenant, fleet), clock, prefix)
    await tenant.close()
    await fleet.close()


async def test_creating_an_organization_again_answers_the_first(accounts: Accounts) -> None:
    first = await accounts.create()
    accounts.clock.advance(timedelta(hours=1))
    assert await accounts.create() == first
    assert await ReadOrganizations(accounts.organizations).get(first.organization_id) == first


async def test_an_id_that_is_taken_by_another_organization_is_refused(accounts: Accounts) -> None:
    await accounts.create("1", accounts.prefix, "Acme")
    with pytest.raises(AlreadyExists):
        await accounts.create("2", accounts.prefix, "Other")


async def test_a_request_id_of_another_organization_is_refused(accounts: Accounts) -> None:
    await accounts.create("1", name="Acme")
    with pytest.raises(RequestIdReused):
        await accounts.create("1", name="Other")


async def test_a_key_that_cannot_exist_is_not_found(accounts: Accounts) -> None:
    for api_key_id in ("", "\x00", f"key_{'0' * 20}", "k" * 100_000):
        with pytest.raises(NotFound):
            await accounts.keys.revoke(accounts.prefix, api_key_id, request_id="r")


async def test_pages_of_organizations_skip_and_repeat_none(accounts: Accounts) -> None:
    made = {(await accounts.create("", f"{accounts.prefix}-{number}")).organization_id for number in range(7)}
    read = ReadOrganizations(accounts.organizations)
    seen: list[str] = []
    after = ""
    while True:
        page, after = await read.page(after, size=3)
        seen += [organization.organization_id for organization in page]
        if not after:
            break
    assert made <= set(seen)
    assert seen == sorted(set(seen))


async def test_a_secret_is_shown_once_and_found_by_its_digest_alone(accounts: Accounts) -> None:
    key, secret = await accounts.keys.create(accounts.key_request(), grantable=GRANTABLE)
    assert secret.startswith("tb_live_")
    assert await accounts.keys.verify(hashlib.sha256(secret.encode()).digest()) == key
    assert await accounts.keys.verify(hashlib.sha256(b"tb_live_wrong").digest()) is None
    again, nothing = await accounts.keys.create(accounts.key_request(), grantable=GRANTABLE)
    assert (again, nothing) == (key, "")


async def test_a_request_id_of_another_key_is_refused(accounts: Accounts) -> None:
    await accounts.keys.create(accounts.key_request(), grantable=GRANTABLE)
    with pytest.raises(RequestIdReused):
        await accounts.keys.create(replace(accounts.key_request(), display_name="other"), grantable=GRANTABLE)


async def test_nobody_hands_on_a_scope_they_do_not_hold(accounts: Accounts) -> None:
    with pytest.raises(InvalidField, match="scopes"):
        await accounts.keys.create(replace(accounts.key_request(), scopes=[4, 12]), grantable=GRANTABLE)


async def test_a_revoked_key_opens_nothing_and_stays_revoked(accounts: Accounts) -> None:
    key, secret = await accounts.keys.create(accounts.key_request(), grantable=GRANTABLE)
    revoked = await accounts.keys.revoke(key.organization_id, key.api_key_id, request_id="r")
    accounts.clock.advance(timedelta(hours=1))
    assert await accounts.keys.revoke(key.organization_id, key.api_key_id, request_id="r") == revoked
    assert await accounts.keys.verify(hashlib.sha256(secret.encode()).digest()) is None
    with pytest.raises(NotFound):
        await accounts.keys.revoke(key.organization_id, "key_unknown", request_id="r")


async def test_a_key_ends_at_its_expiry(accounts: Accounts) -> None:
    expiring = replace(accounts.key_request(), expire_time=accounts.clock.now() + timedelta(hours=1))
    _, secret = await accounts.keys.create(expiring, grantable=GRANTABLE)
    digest = hashlib.sha256(secret.encode()).digest()
    assert await accounts.keys.verify(digest) is not None
    accounts.clock.advance(timedelta(hours=1))
    assert await accounts.keys.verify(digest) is None


async def test_keys_made_at_once_never_pass_the_maximum(accounts: Accounts) -> None:
    async def make(number: int) -> bool:
        key, _ = await accounts.keys.create(accounts.key_request(str(number)), grantable=GRANTABLE)
        try:
            await accounts.api_keys.add(replace(key, api_key_id=f"extra-{number}"), bytes([number]) * 32, keys_max=6)
        except LimitExceeded:
            return False
        return True

    for number in range(4):
        await accounts.keys.create(accounts.key_request(str(number)), grantable=GRANTABLE)
    added = await asyncio.gather(*(make(number) for number in range(4)))
    assert sum(added) == 2
    assert len(await accounts.keys.list_keys(accounts.prefix)) == 6
