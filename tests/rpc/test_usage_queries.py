"""QueryUsage and meters over a real channel, on the shipped fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from kit.clock import unix_microseconds
from kit.grpc.access import TENANT_SCOPES
from kit.grpc.call import CallerKind, Principal
from kit.grpc.errors import reason_of
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.testing.servers import KnownKeys, serving
from services.metering.adapters.memory import MemoryLedger, MemoryMeterCatalog
from services.metering.domain import limits
from services.metering.domain.grouping import SubjectPart
from services.metering.domain.meters import Aggregation, ValueSource
from tests.metering_house import metering_servicer
from tests.usage_model import METERS, usage
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc

START = datetime(2025, 3, 28, 23, tzinfo=UTC)
HOUR = timedelta(hours=1)
TENANT, ADMIN = "tb_live_acme", "tb_admin_1"


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


@pytest.fixture
async def metering(ledger: MemoryLedger) -> AsyncIterator[metering_pb2_grpc.MeteringServiceAsyncStub]:
    async def prepare() -> None:
        return None

    keys = KnownKeys(
        {
            TENANT: Principal(CallerKind.TENANT, "key-1", "acme", TENANT_SCOPES),
            ADMIN: Principal(CallerKind.ADMIN, "admin"),
        }
    )
    application = Application(
        authenticator=Authenticator(keys, {}),
        servicers=[metering_servicer(ledger, MemoryMeterCatalog(*METERS))],
        prepare=prepare,
    )
    async with serving(application) as channel:
        yield metering_pb2_grpc.MeteringServiceStub(channel)


def key(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


def timestamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromMicroseconds(unix_microseconds(moment))
    return message


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), reason_of(caught.value), caught.value.details() or ""


def storage_meter(**changes: Any) -> metering_pb2.Meter:
    fields: dict[str, Any] = {
        "name": "storage_peak",
        "base_unit": "byte",
        "display_unit": "gibibyte",
        "base_units_per_display_unit": 2**30,
        "aggregation": metering_pb2.AGGREGATION_MAX,
        "value_source": metering_pb2.VALUE_SOURCE_MEASUREMENT,
    }
    return metering_pb2.Meter(**(fields | changes))


async def test_rows_bear_their_group_and_window(
    ledger: MemoryLedger, metering: metering_pb2_grpc.MeteringServiceAsyncStub
) -> None:
    events = [
        usage(f"e{hour}", START + hour * HOUR, {"api_calls": 1}, user="u1", labels={"env": "live"})
        for hour in range(47)
    ]
    await ledger.append([*events, usage("other", START, {"api_calls": 100}, user="u2")], now=START + 48 * HOUR)
    answer = await metering.QueryUsage(
        metering_pb2.QueryUsageRequest(
            meters=["api_calls"],
            start_time=timestamp(START),
            end_time=timestamp(START + 47 * HOUR),
            group_by=["user", "label:env"],
            filters=[metering_pb2.UsageFilter(dimension="user", values=["u1"])],
            window=metering_pb2.USAGE_WINDOW_DAY,
            time_zone="Europe/Vienna",
        ),
        metadata=key(TENANT),
    )
    noted = [(dict(row.group), row.window_start, row.window_end, row.quantity) for row in answer.rows]
    group = {"user": "u1", "label:env": "live"}
    assert noted == [
        (group, timestamp(START), timestamp(START + 24 * HOUR), 24),
        (group, timestamp(START + 24 * HOUR), timestamp(START + 47 * HOUR), 23),
    ]
    assert answer.as_of_sequence == 48


async def test_without_group_and_window_a_row_is_a_meter_and_its_quantity(
    ledger: MemoryLedger, metering: metering_pb2_grpc.MeteringServiceAsyncStub
) -> None:
    await ledger.append([usage("a", START, {"api_calls": 3}), usage("b", START, {"api_calls": 4})], now=START)
    request = metering_pb2.QueryUsageRequest(as_of_sequence=1)
    answer = await metering.QueryUsage(request, metadata=key(TENANT))
    assert answer == metering_pb2.QueryUsageResponse(
        rows=[metering_pb2.UsageRow(meter="api_calls", quantity=3)], as_of_sequence=1
    )


@pytest.mark.parametrize(
    ("changes", "reason", "problem"),
    [
        ({"group_by": ["organization"]}, "INVALID_FIELD", "group_by"),
        ({"filters": [metering_pb2.UsageFilter(dimension="user")]}, "INVALID_FIELD", "filters.values"),
        ({"filters": [metering_pb2.UsageFilter(values=["a"])]}, "INVALID_FIELD", "filters.dimension"),
        ({"time_zone": "UTC"}, "INVALID_FIELD", "time_zone"),
        ({"window": metering_pb2.USAGE_WINDOW_HOUR}, "INVALID_FIELD", "needs start_time and end_time"),
        ({"window": 99}, "INVALID_FIELD", "window: 99"),
        ({"as_of_sequence": -1}, "INVALID_FIELD", "as_of_sequence"),
        ({"start_time": Timestamp(nanos=1)}, "INVALID_FIELD", "finer than a microsecond"),
        ({"start_time": Timestamp(seconds=2), "end_time": Timestamp(seconds=1)}, "INVALID_FIELD", "before start_time"),
        (
            {
                "start_time": Timestamp(seconds=0),
                "end_time": Timestamp(seconds=1_700_000_000),
                "window": metering_pb2.USAGE_WINDOW_HOUR,
            },
            "LIMIT_EXCEEDED",
            str(limits.QUERY_WINDOWS_MAX),
        ),
        ({"meters": ["unheard_of"]}, "UNKNOWN_METER", "unheard_of"),
    ],
)
async def test_a_query_that_cannot_be_answered_says_why(
    metering: metering_pb2_grpc.MeteringServiceAsyncStub, changes: dict[str, Any], reason: str, problem: str
) -> None:
    call = metering.QueryUsage(metering_pb2.QueryUsageRequest(**changes), metadata=key(TENANT))
    code, told, details = await refused(call)
    assert (code, told) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert problem in details


async def test_an_answer_of_too_many_rows_names_the_maximum(
    ledger: MemoryLedger, metering: metering_pb2_grpc.MeteringServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUERY_ROWS_MAX", 3)
    await ledger.append([usage(f"e{user}", START, {"api_calls": 1}, user=f"u{user}") for user in range(4)], now=START)
    call = metering.QueryUsage(metering_pb2.QueryUsageRequest(group_by=["user"]), metadata=key(TENANT))
    code, reason, details = await refused(call)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "LIMIT_EXCEEDED")
    assert "more than 3 rows" in details


async def test_a_created_meter_totals_what_was_recorded_before(
    ledger: MemoryLedger, metering: metering_pb2_grpc.MeteringServiceAsyncStub
) -> None:
    await ledger.append([usage("a", START, user="u1"), usage("b", START, user="u2")], now=START)
    wanted = storage_meter(
        name="active_users",
        aggregation=metering_pb2.AGGREGATION_UNIQUE_COUNT,
        value_source=metering_pb2.VALUE_SOURCE_DIMENSION,
        dimension="user",
    )
    request = metering_pb2.CreateMeterRequest(request_id="r1", meter=wanted)
    for _ in range(2):
        assert (await metering.CreateMeter(request, metadata=key(ADMIN))).meter == wanted
    found = await metering.GetMeter(metering_pb2.GetMeterRequest(name="active_users"), metadata=key(TENANT))
    assert found.meter == wanted
    listed = await metering.ListMeters(metering_pb2.ListMetersRequest(), metadata=key(TENANT))
    assert wanted in listed.meters
    answer = await metering.QueryUsage(metering_pb2.QueryUsageRequest(meters=["active_users"]), metadata=key(TENANT))
    assert [row.quantity for row in answer.rows] == [2]


async def test_only_the_operator_creates_meters(metering: metering_pb2_grpc.MeteringServiceAsyncStub) -> None:
    request = metering_pb2.CreateMeterRequest(request_id="r1", meter=storage_meter())
    code, reason, _ = await refused(metering.CreateMeter(request, metadata=key(TENANT)))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


async def test_another_definition_or_another_use_of_an_id_is_refused(
    metering: metering_pb2_grpc.MeteringServiceAsyncStub,
) -> None:
    first = metering_pb2.CreateMeterRequest(request_id="r1", meter=storage_meter())
    await metering.CreateMeter(first, metadata=key(ADMIN))
    changed = storage_meter(base_unit="bit")
    for request_id, refusal in (
        ("r2", (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")),
        ("r1", (grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED")),
    ):
        request = metering_pb2.CreateMeterRequest(request_id=request_id, meter=changed)
        assert (await refused(metering.CreateMeter(request, metadata=key(ADMIN))))[:2] == refusal


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Storage"}, "meter.name"),
        ({"aggregation": metering_pb2.AGGREGATION_UNSPECIFIED}, "meter.aggregation"),
        ({"aggregation": 99}, "meter.aggregation"),
        ({"value_source": metering_pb2.VALUE_SOURCE_UNSPECIFIED}, "meter.value_source"),
        ({"value_source": 99}, "meter.value_source"),
        ({"dimension": "organization"}, "meter.dimension"),
        ({"dimension": "user"}, "meter.dimension"),
        ({"base_units_per_display_unit": 0}, "meter.base_units_per_display_unit"),
    ],
)
async def test_a_meter_that_is_not_sound_is_refused_by_its_field(
    metering: metering_pb2_grpc.MeteringServiceAsyncStub, changes: dict[str, Any], field: str
) -> None:
    request = metering_pb2.CreateMeterRequest(request_id="r1", meter=storage_meter(**changes))
    code, reason, details = await refused(metering.CreateMeter(request, metadata=key(ADMIN)))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert details.startswith(f"{field}:")


async def test_there_is_no_meter_of_an_unknown_name(metering: metering_pb2_grpc.MeteringServiceAsyncStub) -> None:
    call = metering.GetMeter(metering_pb2.GetMeterRequest(name="unheard_of"), metadata=key(TENANT))
    assert (await refused(call))[:2] == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


def test_the_contract_has_every_aggregation_source_and_part() -> None:
    assert {f"AGGREGATION_{each.value}" for each in Aggregation} | {"AGGREGATION_UNSPECIFIED"} == set(
        metering_pb2.Aggregation.keys()
    )
    assert {f"VALUE_SOURCE_{each.value}" for each in ValueSource} | {"VALUE_SOURCE_UNSPECIFIED"} == set(
        metering_pb2.ValueSource.keys()
    )
    fields = {field.name for field in metering_pb2.Subject.DESCRIPTOR.fields}
    assert {f"{part.value}_id" for part in SubjectPart} | {"organization_id"} == fields
