"""Usage, asked of the metering service."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from time import monotonic

import grpc

from kit.grpc.convert import moment_to_pb
from kit.grpc.errors import refusal_from_call
from services.billing.application.ports.usage import UsageTotals
from services.billing.domain.meters import Meter
from services.billing.domain.periods import Period
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc

METERS_BELIEVED_SECONDS = 5.0


class MeteringUsage:
    """Usage over metering; believes the catalog of meters for a few seconds."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = metering_pb2_grpc.MeteringServiceStub(channel)
        self._meters: Mapping[str, Meter] = {}
        self._asked_at = float("-inf")

    async def totals(
        self, organization_id: str, period: Period, meters: Collection[str], *, as_of_sequence: int | None = None
    ) -> UsageTotals:
        """As Usage."""
        request = metering_pb2.QueryUsageRequest(
            organization_id=organization_id,
            meters=meters,
            start_time=moment_to_pb(period.start),
            # No meter stands for every meter there; of an empty interval there is only the position to tell.
            end_time=moment_to_pb(period.end if meters else period.start),
            as_of_sequence=as_of_sequence or 0,
        )
        try:
            answer = await self._stub.QueryUsage(request)
        except grpc.aio.AioRpcError as error:
            raise refusal_from_call(error, "metering") from error
        return UsageTotals({row.meter: row.quantity for row in answer.rows}, answer.as_of_sequence)

    async def meters(self) -> Mapping[str, Meter]:
        """As Usage."""
        if monotonic() - self._asked_at > METERS_BELIEVED_SECONDS:
            try:
                answer = await self._stub.ListMeters(metering_pb2.ListMetersRequest())
            except grpc.aio.AioRpcError as error:
                raise refusal_from_call(error, "metering") from error
            self._meters = {each.name: _meter_from_pb(each) for each in answer.meters}
            self._asked_at = monotonic()
        return self._meters


def _meter_from_pb(message: metering_pb2.Meter) -> Meter:
    return Meter(
        name=message.name,
        display_unit=message.display_unit,
        base_units_per_display_unit=message.base_units_per_display_unit,
    )
