"""Looking at heads in a real Postgres: what a mark must not miss."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from uuid import uuid4

import psycopg
import pytest

from kit.head_watch import FROM_THE_START
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from services.metering.adapters.postgres_ledger import PostgresLedgerHeads


@pytest.fixture
async def heads(migrated: Callable[[str], dict[str, str]]) -> AsyncIterator[PostgresLedgerHeads]:
    fleet = Database(migrated("metering")["fleet"])
    yield PostgresLedgerHeads(fleet)
    await fleet.close()


@pytest.fixture
def organization() -> str:
    return f"org-{uuid4().hex}"


@pytest.fixture
def owner(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        yield connection


def set_head(connection: psycopg.Connection, organization_id: str, sequence: int) -> None:
    connection.execute(
        "INSERT INTO metering.ledger_heads (organization_id, sequence, commit_id) VALUES (%s, %s, 'c')"
        " ON CONFLICT (organization_id) DO UPDATE SET sequence = excluded.sequence",
        (organization_id, sequence),
    )


async def seen(heads: PostgresLedgerHeads, mark: str, organization_id: str) -> tuple[int | None, str]:
    """The sequence that a look from the mark sees, if it sees the organization, and the next mark."""
    look = await heads.heads(mark)
    found = {head.key: head.position.sequence for head in look.heads}
    return found.get(organization_id), look.mark


async def test_a_look_from_the_start_sees_every_head_and_one_from_a_mark_what_moved_since(
    heads: PostgresLedgerHeads, owner: psycopg.Connection, organization: str
) -> None:
    set_head(owner, organization, 1)
    sequence, mark = await seen(heads, FROM_THE_START, organization)
    assert sequence == 1
    for number in range(3):
        set_head(owner, f"{organization}-{number}", 1)
    sequence, mark = await seen(heads, mark, organization)
    assert sequence is None
    set_head(owner, organization, 2)
    assert (await seen(heads, mark, organization))[0] == 2


async def test_a_head_that_began_to_move_before_a_look_and_commits_after_it_is_seen_by_the_next(
    heads: PostgresLedgerHeads, owner: psycopg.Connection, postgres: EmbeddedPostgres, organization: str
) -> None:
    set_head(owner, organization, 1)
    with psycopg.connect(postgres.url) as late:
        set_head(late, organization, 2)
        mark = FROM_THE_START
        for number in range(3):  # later transactions commit and are looked at meanwhile
            set_head(owner, f"{organization}-{number}", 1)
            sequence, mark = await seen(heads, mark, organization)
            assert sequence in (None, 1)
        late.commit()
    assert (await seen(heads, mark, organization))[0] == 2


async def test_a_head_that_moves_in_a_part_of_a_transaction_is_seen(
    heads: PostgresLedgerHeads, owner: psycopg.Connection, postgres: EmbeddedPostgres, organization: str
) -> None:
    set_head(owner, organization, 1)
    with psycopg.connect(postgres.url) as late:
        late.execute("SELECT pg_current_xact_id()")
        _, mark = await seen(heads, FROM_THE_START, organization)
        set_head(owner, f"{organization}-other", 1)
        with late.transaction():
            set_head(late, organization, 2)
        _, mark = await seen(heads, mark, organization)
        late.commit()
    assert (await seen(heads, mark, organization))[0] == 2


async def test_what_is_rolled_back_is_not_seen_and_hides_nothing(
    heads: PostgresLedgerHeads, owner: psycopg.Connection, postgres: EmbeddedPostgres, organization: str
) -> None:
    set_head(owner, organization, 1)
    with psycopg.connect(postgres.url) as late:
        set_head(late, organization, 2)
        _, mark = await seen(heads, FROM_THE_START, organization)
        late.rollback()
    set_head(owner, organization, 3)
    assert (await seen(heads, mark, organization))[0] == 3


def transaction_of(mark: str) -> int:
    """Of the transaction that a mark names."""
    return int(mark.rpartition(" ")[2])


@pytest.mark.parametrize("ahead", [1_000_000, 0, -1])
async def test_a_mark_of_another_server_sees_every_head_whatever_its_number(
    heads: PostgresLedgerHeads, owner: psycopg.Connection, organization: str, ahead: int
) -> None:
    set_head(owner, organization, 1)
    _, mark = await seen(heads, FROM_THE_START, organization)
    sequence, mark = await seen(heads, f"1700000000.5 {transaction_of(mark) + ahead}", organization)
    assert sequence == 1
    assert transaction_of((await seen(heads, mark, organization))[1]) >= transaction_of(mark)


async def test_a_look_that_sees_nothing_still_answers_a_mark(heads: PostgresLedgerHeads) -> None:
    mark = (await heads.heads(FROM_THE_START)).mark
    look = await heads.heads(mark)
    assert transaction_of(look.mark) >= transaction_of(mark)
