"""Reservations on the wire and in the domain, once a check has made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kit.errors import InvalidField
from services.quota.application.ports import Extended
from services.quota.domain.checks import Check, Mode
from services.quota.domain.reservations import Settlement
from services.quota.rpc.convert import answer_to_pb, consumptions_from_pb, reserve_us_from_pb, subject_from_pb
from tollbook.metering.v1 import metering_pb2
from tollbook.quota.v1 import quota_pb2


def extension_from_pb(message: quota_pb2.ExtendReservationRequest, organization_id: str, *, owner: str) -> Check:
    """What to hold at least, as the check that would make the reservation anew. Raises InvalidField."""
    return Check(
        request_id=message.reservation_id,
        subject=subject_from_pb(message.subject, organization_id),
        consumptions=consumptions_from_pb(message.consumptions),
        mode=Mode.RESERVE,
        reserve_us=reserve_us_from_pb(message),
        owner=owner,
    )


def extended_to_pb(extended: Extended) -> quota_pb2.ExtendReservationResponse:
    """The answer to an extension."""
    return quota_pb2.ExtendReservationResponse(check=answer_to_pb(extended.answer), restored=extended.restored)


def actuals_from_pb(measurements: Sequence[metering_pb2.Measurement]) -> dict[str, int]:
    """What was used, by meter. Raises InvalidField for a meter that appears twice."""
    actuals: dict[str, int] = {}
    for each in measurements:
        if each.meter in actuals:
            raise InvalidField(field="actuals", problem=f"meter {each.meter[:128]!r} appears twice")
        actuals[each.meter] = each.quantity
    return actuals


def settlement_to_pb(settlement: Settlement) -> quota_pb2.CommitReservationResponse:
    """What is left to settle."""
    response = quota_pb2.CommitReservationResponse(
        held=_measurements(settlement.held), overrun=_measurements(settlement.overrun)
    )
    if settlement.expire_us is not None:
        response.expire_time.FromMicroseconds(settlement.expire_us)
    return response


def _measurements(quantities: Mapping[str, int]) -> list[metering_pb2.Measurement]:
    return [metering_pb2.Measurement(meter=meter, quantity=quantities[meter]) for meter in sorted(quantities)]
