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


class RecordUsage:
    """Takes a batch of events into the ledger."""

    def __init__(self, ledger: LedgerWriter, meters: MeterCatalog, clock: Clock) -> None:
        self._ledger = ledger
        self._meters = meters
        self._clock = clock

    async def __call__(self, events: Sequence[UsageEvent]) -> list[Outcome]:
        """The outcome of each event, in order; a bad event leaves the others as they are. Idempotent.

        Raises InvalidField for an empty batch, LimitExceeded for one that is too large, and DependencyUnavailable.
        """
        if not events:
            raise InvalidField(field="events", problem="an empty batch")
        if len(events) > limits.BATCH_EVENTS_MAX:
            raise LimitExceeded(what="events", actual=len(events), maximum=limits.BATCH_EVENTS_MAX)
        known_meters = await self._meters.meters()
        refusals = [validate(event, known_meters) for event in events]
        sound = [event for event, refusal in zip(events, refusals, strict=True) if refusal is None]
        appended = iter(await self._ledger.append(sound, now=self._clock.now()) if sound else ())
        return [Outcome(Status.REJECTED, refusal=refusal) if refusal else next(appended) for refusal in refusals]
