"""Count usage: everything that a cut needs counted, as of one event of the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from services.billing.application.ports.usage import Usage
from services.billing.domain.periods import Period
from services.billing.domain.rating import Counting, Counts


async def count_usage(usage: Usage, organization_id: str, wanted: Sequence[Counting], *, at: Period) -> Counts:
    """The counts, all as of the ledger's head when this is called. at: what is asked for when nothing is wanted but
    the head. Raises DependencyUnavailable.
    """
    found: dict[Period, dict[str, int]] = {}
    as_of = 0
    for counting in wanted or (Counting(at, frozenset()),):
        # The first answer says where the ledger ends; the others are as of there, too. Of an empty ledger each is 0.
        totals = await usage.totals(
            organization_id, counting.interval, sorted(counting.meters), as_of_sequence=as_of or None
        )
        found[counting.interval] = dict(totals.quantities)
        as_of = as_of or totals.as_of_sequence
        if not as_of:
            break
    empty = {counting.interval: found.get(counting.interval, {}) for counting in wanted}
    return Counts(empty, as_of)
