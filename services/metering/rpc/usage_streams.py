"""StreamUsage: batches in, acknowledgements out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from kit.errors import InvalidField
from kit.futures import transformed
from kit.grpc.call import OrganizationExists, admit_again
from kit.grpc.streams import LongCalls
from services.metering.application.record_usage import refuse_batch_of
from services.metering.application.stream_usage import StreamUsage
from services.metering.domain import limits
from services.metering.domain.acceptance import Outcome, Status
from services.metering.rpc.admission import admit
from services.metering.rpc.convert import outcome_to_pb
from tollbook.metering.v1 import metering_pb2


class UsageStreams:
    """The streams of usage that this process takes."""

    def __init__(self, stream_usage: StreamUsage, exists: OrganizationExists) -> None:
        self._stream_usage = stream_usage
        self._exists = exists
        self._calls = LongCalls(
            "streams of usage", calls_max=limits.STREAMS_MAX, calls_of_one_max=limits.STREAMS_OF_ONE_MAX
        )

    def drain(self) -> None:
        """Ends every stream after what it has read."""
        self._calls.drain()

    async def answer(
        self, requests: AsyncIterator[metering_pb2.StreamUsageRequest]
    ) -> AsyncIterator[metering_pb2.StreamUsageResponse]:
        """The acknowledgements of one stream, in order."""
        last_number: int | None = None

        async def begin(
            request: metering_pb2.StreamUsageRequest,
        ) -> asyncio.Future[metering_pb2.StreamUsageResponse]:
            nonlocal last_number
            await admit_again()
            number = request.batch_number
            if last_number is not None and number <= last_number:
                raise InvalidField(field="batch_number", problem=f"{number} does not rise above {last_number}")
            last_number = number
            refuse_batch_of(len(request.events))
            admitted = await admit(request.events, is_backfill=request.backfill, exists=self._exists)
            if not admitted.events:
                recorded: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
                recorded.set_result([])
            else:
                recorded = await self._stream_usage(admitted.events)
            is_of_one = len({event.subject.organization_id for event in admitted.events}) == 1
            return transformed(
                recorded, lambda of_events: _acknowledgement(number, admitted.outcomes(of_events), is_of_one=is_of_one)
            )

        with self._calls.place():
            async for response in self._calls.answer_in_order(
                requests, begin, in_flight_max=limits.STREAM_BATCHES_IN_FLIGHT_MAX
            ):
                yield response


def _acknowledgement(number: int, outcomes: Sequence[Outcome], *, is_of_one: bool) -> metering_pb2.StreamUsageResponse:
    counts = Counter(outcome.status for outcome in outcomes)
    sequences = [outcome.sequence for outcome in outcomes if outcome.sequence] or [0]
    return metering_pb2.StreamUsageResponse(
        batch_number=number,
        accepted_count=counts[Status.ACCEPTED],
        duplicate_count=counts[Status.DUPLICATE],
        refused=[
            outcome_to_pb(index, outcome) for index, outcome in enumerate(outcomes) if outcome.refusal is not None
        ],
        last_sequence=max(sequences) if is_of_one else sequences[-1],
    )
