"""Stream usage: batch after batch, each as RecordUsage would take it, without waiting for the last one's commit."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Sequence

from kit.clock import Clock
from kit.futures import transformed
from services.metering.application.commit_batches import UsageBatches
from services.metering.application.ports import MeterCatalog
from services.metering.application.record_usage import judge
from services.metering.domain.acceptance import Outcome
from services.metering.domain.events import UsageEvent
from services.metering.domain.validation import LABEL_KEYS


class StreamUsage:
    """Takes the batches of a stream into the ledger, in order."""

    def __init__(
        self,
        batches: UsageBatches,
        meters: MeterCatalog,
        clock: Clock,
        *,
        label_keys: Container[str] = LABEL_KEYS,
    ) -> None:
        self._batches = batches
        self._meters = meters
        self._clock = clock
        self._label_keys = label_keys

    async def __call__(self, events: Sequence[UsageEvent]) -> asyncio.Future[list[Outcome]]:
        """Answers as soon as the batch is taken on, which is when the next one may be read: with too much waiting
        already, that takes as long as it must. What it answers is to be awaited for the outcome of each event, in
        order; cancelling it drops the batch, unless its transaction has begun.

        Raises InvalidField for an empty batch, and LimitExceeded for one that is too large; what it answers raises
        DependencyUnavailable.
        """
        judged = await judge(events, self._meters, self._label_keys)
        if not judged.sound:
            nothing: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
            nothing.set_result(judged.outcomes(()))
            return nothing
        return transformed(await self._batches.append_later(judged.sound, now=self._clock.now()), judged.outcomes)
