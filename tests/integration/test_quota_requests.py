"""Requests that changed limits are remembered for a while and no longer, on a real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import psycopg
import pytest

from kit.errors import RequestIdReused
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from services.quota.adapters import postgres_limits
from services.quota.adapters.postgres_limits import PostgresLimits
from services.quota.application.ports import ChangeRequest
from services.quota.domain.maxima import REQUESTS_REMEMBERED_DAYS
from tests.unit.quota.samples import minutes_limit, new_organization_id

LIMIT = replace(minutes_limit(1), limit_id="mine")


@dataclass
class Place:
    """An organization that no other test uses."""

    record: PostgresLimits
    owner_url: str
    organization_id: str

    async def set(self, request_id: str, value: int) -> None:
        request = ChangeRequest(request_id=request_id, digest=str(value).encode(), actor="tests")
        await self.record.set(self.organization_id, replace(LIMIT, value=value), request)

    def age(self, *, days: float) -> None:
        """Makes every request older."""
        with psycopg.connect(self.owner_url, autocommit=True) as owner:
            owner.execute(
                "UPDATE quota.requests SET create_time = create_time - make_interval(secs => %s)"
                " WHERE organization_id = %s",
                (days * 86_400, self.organization_id),
            )

    def remembered(self) -> list[str]:
        with psycopg.connect(self.owner_url) as owner:
            rows = owner.execute(
                "SELECT request_id FROM quota.requests WHERE organization_id = %s ORDER BY create_time",
                (self.organization_id,),
            )
            return [request_id for (request_id,) in rows]


@pytest.fixture
async def place(migrated: Callable[[str], dict[str, str]], postgres: EmbeddedPostgres) -> AsyncIterator[Place]:
    tenant = Database(migrated("quota")["tenant"])
    yield Place(PostgresLimits(tenant), postgres.url, new_organization_id())
    await tenant.close()


async def test_a_request_is_remembered_for_so_many_days_and_forgotten_with_the_next_change(place: Place) -> None:
    await place.set("q1", 1)
    place.age(days=2)
    await place.set("q2", 2)
    place.age(days=REQUESTS_REMEMBERED_DAYS - 1)
    await place.set("q3", 3)
    assert place.remembered() == ["q2", "q3"]
    with pytest.raises(RequestIdReused):
        await place.set("q2", 9)
    (limit,) = (await place.record.own_limits(place.organization_id)).limits
    assert limit.value == 3


async def test_of_one_organization_so_many_requests_are_remembered_and_no_more(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_limits, "REQUESTS_REMEMBERED_MAX", 3)
    for number in range(6):
        await place.set(f"q{number}", number)
    assert place.remembered() == ["q3", "q4", "q5"]


async def test_a_change_forgets_so_many_requests_at_once_and_other_organizations_none(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(place, organization_id=new_organization_id())
    await other.set("q0", 0)
    for number in range(5):
        await place.set(f"q{number}", number)
    place.age(days=REQUESTS_REMEMBERED_DAYS + 1)
    other.age(days=REQUESTS_REMEMBERED_DAYS + 1)
    monkeypatch.setattr(postgres_limits, "REQUESTS_FORGOTTEN_AT_ONCE_MAX", 3)
    await place.set("q5", 5)
    assert place.remembered() == ["q3", "q4", "q5"]
    assert other.remembered() == ["q0"]
