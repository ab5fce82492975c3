"""I7: what years of history cost."""

from __future__ import annotations

from tests.bench.events import make_events
from tests.bench.ground import DIRECT_BATCH_EVENTS, MIXED, Ground, writing
from tests.bench.stores import age
from tests.bench.table import Figure, Floor

WEEKS_OF_3_YEARS = 156


async def old_ledger(ground: Ground) -> list[Figure]:
    """I7: ingest into a ledger with three years of partitions and millions of old identities, beside a fresh one."""
    aged, fresh = ground.new_database("aged"), ground.new_database("fresh")
    age(aged, weeks=WEEKS_OF_3_YEARS, identities=ground.sizes.old_identities, organization_ids=MIXED)
    events, rates, ratios = ground.sizes.events, [], []
    async with writing(aged) as write_aged, writing(fresh) as write_fresh:
        for write_rate in (write_aged, write_fresh):
            await write_rate(make_events(2 * DIRECT_BATCH_EVENTS, MIXED))
        before = await write_fresh(make_events(events, MIXED))
        for _ in range(ground.sizes.rounds):
            rate = await write_aged(make_events(events, MIXED))
            after = await write_fresh(make_events(events, MIXED))
            rates.append(after)
            ratios.append(rate / ((before + after) / 2))
            before = after
    name = f"3 years of partitions, {ground.sizes.old_identities / 1e6:g} M old identities / fresh"
    return [
        Figure(id="I7", name="write path, fresh ledger", rounds=rates, unit="events/s", digits=0),
        Figure(id="I7", name=name, rounds=ratios, unit="", floor=Floor(at_least=0.85)),
    ]
