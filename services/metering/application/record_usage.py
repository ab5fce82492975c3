"""Record usage: every sound event once, the others refused one by one."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from kit.clock import Clock
from kit.errors import InvalidField, LimitExceeded
from services.metering.application.ports import LedgerWriter, MeterCatalog
from services.metering.domain import limits
from services.metering.domain.acceptance import Outcome, Status
from services.metering.domain.events import UsageEvent
from services.metering.domain.meters import measured
from services.metering.domain.refusals import Refusal
from services.metering.domain.validation import LABEL_KEYS, validate


def refuse_batch_of(count: int) -> None:
    """Raises InvalidField for an empty batch and LimitExceeded for one that is too large."""
    if not count:
        raise InvalidField(field="events", problem="an empty batch")
    if count > limits.BATCH_EVENTS_MAX:
        raise LimitExceeded(what="events", actual=count, maximum=limits.BATCH_EVENTS_MAX)


class RecordUsage:
    """Takes a batch of events into the ledger."""

    def __init__(
        self, ledger: LedgerWriter, meters: MeterCatalog, clock: Clock, *, label_keys: Container[str] = LABEL_KEYS
    ) -> None:
        self._ledger = ledger
        self._meters = meters
        self._clock = clock
        self._label_keys = label_keys

    async def __call__(self, events: Sequence[UsageEvent]) -> list[Outcome]:
        """The outcome of each event, in order; a bad event leaves the others as they are. Idempotent.

        Raises what refuse_batch_of raises, Overloaded and DependencyUnavailable.
        """
        judged = await judge(events, self._meters, self._label_keys)
        if not judged.sound:
            return judged.outcomes(())
        return judged.outcomes(await self._ledger.append(judged.sound, now=self._clock.now()))


@dataclass(frozen=True, slots=True)
class Judged:
    """A batch of which the unsound events are known."""

    refusals: Sequence[Refusal | None]
    """One per event."""
    sound: Sequence[UsageEvent]
    """The events that are not refused."""

    def outcomes(self, appended: Iterable[Outcome]) -> list[Outcome]:
        """The outcome of each event, in order, given those of the sound ones."""
        of_sound = iter(appended)
        return [Outcome(Status.REJECTED, refusal=refusal) if refusal else next(of_sound) for refusal in self.refusals]


async def judge(events: Sequence[UsageEvent], meters: MeterCatalog, label_keys: Container[str]) -> Judged:
    """Judges a batch. Raises what refuse_batch_of raises."""
    refuse_batch_of(len(events))
    known_meters = measured(await meters.meters())
    refusals = [validate(event, known_meters, label_keys) for event in events]
    return Judged(refusals, [event for event, refusal in zip(events, refusals, strict=True) if refusal is None])
