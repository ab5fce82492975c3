"""Record usage: every sound event once, the others refused one by one."""

from __future__ import annotations

from collections.abc import Sequence

from kit.clock import Clock
from kit.errors import InvalidField, LimitExceeded
from services.metering.application.ports import LedgerWriter, MeterCatalog
from services.metering.domain import limits
from services.metering.domain.acceptance import Outcome, Status
from services.metering.domain.events import UsageEvent
from services.metering.domain.validation import validate


def refuse_batch_of(count: int) -> None:
    """Raises InvalidField for an empty batch and LimitExceeded for one that is too large."""
    if not count:
        raise InvalidField(field="events", problem="an empty batch")
    if count > limits.BATCH_EVENTS_MAX:
        raise LimitExceeded(what="events", actual=count, maximum=limits.BATCH_EVENTS_MAX)


class RecordUsage:
    """Takes a batch of events into the ledger."""

    def __init__(self, ledger: LedgerWriter, meters: MeterCatalog, clock: Clock) -> None:
        self._ledger = ledger
        self._meters = meters
        self._clock = clock

    async def __call__(self, events: Sequence[UsageEvent]) -> list[Outcome]:
        """The outcome of each event, in order; a bad event leaves the others as they are. Idempotent.

        Raises what refuse_batch_of raises, and DependencyUnavailable.
        """
        refuse_batch_of(len(events))
        known_meters = await self._meters.meters()
        refusals = [validate(event, known_meters) for event in events]
        sound = [event for event, refusal in zip(events, refusals, strict=True) if refusal is None]
        appended = iter(await self._ledger.append(sound, now=self._clock.now()) if sound else ())
        return [Outcome(Status.REJECTED, refusal=refusal) if refusal else next(appended) for refusal in refusals]
