"""Record mapped usage: what a door could make of foreign records, each at its place."""

from __future__ import annotations

from collections.abc import Sequence

from services.metering.application.record_usage import RecordUsage
from services.metering.domain import limits
from services.metering.domain.acceptance import Outcome, Status
from services.metering.domain.events import UsageEvent
from services.metering.domain.refusals import Refusal


class RecordMappedUsage:
    """Takes usage events that were made from records of another kind."""

    def __init__(self, record_usage: RecordUsage) -> None:
        self._record_usage = record_usage

    async def __call__(self, mapped: Sequence[UsageEvent | Refusal]) -> list[Outcome]:
        """The outcome of each, in order; what could not be mapped is REJECTED. Idempotent. More than fit one batch are
        recorded in several transactions. Raises DependencyUnavailable.
        """
        events = [each for each in mapped if isinstance(each, UsageEvent)]
        recorded: list[Outcome] = []
        for start in range(0, len(events), limits.BATCH_EVENTS_MAX):
            recorded += await self._record_usage(events[start : start + limits.BATCH_EVENTS_MAX])
        outcomes = iter(recorded)
        return [
            Outcome(Status.REJECTED, refusal=each) if isinstance(each, Refusal) else next(outcomes) for each in mapped
        ]
