"""How much an organization's ledger holds, so that every sum over it can be told.

A total on the wire is an int64, and a quantity may be 2^53 - 1: a thousand broken events could make totals that no
answer holds, and a period that cannot be closed. So a ledger's volume stays below 2^63, and one event may take no more
than a share of what is left of that. What is broken is then soon refused, while what is of ordinary size goes on; and
to reverse events gives their volume back.
"""

from __future__ import annotations

from services.metering.domain import limits
from services.metering.domain.events import UsageEvent
from services.metering.domain.refusals import Refusal

_NS_PER_MS = 1_000_000


VOLUME_REASON = "LIMIT_EXCEEDED"


def volume_of(event: UsageEvent) -> int:
    """The largest of all that an event counts, on whatever meter. A total takes one quantity of each event, so none is
    above the sum of the volumes of its events.
    """
    quantities = [each.quantity for each in event.measurements]
    call = event.provider_call
    if call is not None:
        quantities += (
            call.tokens_input_uncached,
            call.tokens_cache_read,
            call.tokens_cache_write,
            call.tokens_output,
            call.tokens_reasoning,
            (call.latency_ns or 0) // _NS_PER_MS,
        )
    return max(quantities, default=0)


def volume_problem(of_event: int, of_ledger: int) -> Refusal | None:
    """Why an event of this volume is too much for a ledger of that; None when it is not."""
    if of_event * limits.VOLUME_SHARE <= limits.TOTAL_MAX - of_ledger:
        return None
    message = (
        f"measurements: a quantity of {of_event} is above 1/{limits.VOLUME_SHARE} of what this organization's totals "
        "can still hold, of 2^63 - 1 in all: reverse the events whose quantities are wrong"
    )
    return Refusal(VOLUME_REASON, message)
