"""What it takes to know which of ten thousand ledgers moved, however many watch."""

from __future__ import annotations

from time import process_time

from kit.head_watch import FROM_THE_START, POLL_SECONDS
from kit.postgres.database import Database
from services.metering.adapters.postgres_ledger import PostgresLedgerHeads
from tests.bench.ground import Ground
from tests.bench.table import Figure, Floor

ORGANIZATIONS = 10_000
LOOKS = 25


async def heads(ground: Ground) -> list[Figure]:
    """The share of a core (of the process and of Postgres together) that looking takes, with a hundred ledgers that
    moved between two looks; beside looking at all of them each time.
    """
    database = ground.new_database("heads")
    with database.connect() as owner:
        owner.execute(
            "INSERT INTO metering.ledger_heads (organization_id, sequence, commit_id)"
            " SELECT 'organization-' || number, 1, md5(number::text) FROM generate_series(1, %s) AS number",
            (ORGANIZATIONS,),
        )
        fleet = Database(database.role_urls()["fleet"])
        found = PostgresLedgerHeads(fleet)

        async def share(*, whole: bool) -> float:
            mark = (await found.heads(FROM_THE_START)).mark
            used = 0.0
            for number in range(LOOKS):
                owner.execute(
                    "UPDATE metering.ledger_heads SET sequence = sequence + 1 WHERE organization_id LIKE %s",
                    (f"organization-%{number % 100:02}",),
                )
                # In this order, and the other way round below: finding the server's processes is no part of looking.
                store, own = ground.store_cpu(), process_time()
                look = await found.heads(FROM_THE_START if whole else mark)
                used += process_time() - own + ground.store_cpu() - store
                assert len(look.heads) >= 99
                mark = look.mark
            return used / LOOKS / POLL_SECONDS * 100

        moved, every = [], []
        for _ in range(ground.sizes.rounds):
            every.append(await share(whole=True))
            moved.append(await share(whole=False))
        await fleet.close()
    name = f"looking at {ORGANIZATIONS:,} heads"
    return [
        Figure(id="heads", name=f"{name}, 100 moved", rounds=moved, unit="% of a core", floor=Floor(at_most=2.0)),
        Figure(id="heads", name=f"{name}, all of them each time", rounds=every, unit="% of a core"),
    ]
