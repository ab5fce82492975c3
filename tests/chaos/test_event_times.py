"""F8: event times that are early, late, ambiguous, or finer than others keep them; on a real process and Postgres."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from services.metering.domain import limits
from tests.conftest import RoleUrls
from tests.metering_process import ADMIN, MeteringProcess, Site, metering_processes, serving_accounts, usage_event
from tollbook.errors.v1 import errors_pb2
from tollbook.metering.v1 import cloudevents_pb2, cloudevents_pb2_grpc, metering_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECOND = timedelta(seconds=1)
VIENNA = "Europe/Vienna"


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Sends for an organization that no other test uses."""

    metering: MeteringProcess
    organization_id: str

    async def send(self, *times: tuple[int, int], backfill: bool = False) -> list[str]:
        """What becomes of events at these (seconds, nanoseconds); their ids are their places."""
        events = [usage_event(str(place), self.organization_id) for place in range(len(times))]
        for event, (seconds, nanos) in zip(events, times, strict=True):
            event.event_time.seconds, event.event_time.nanos = seconds, nanos
        request = metering_pb2.RecordUsageRequest(events=events, backfill=backfill)
        return [said(result) for result in (await self.metering.stub.RecordUsage(request, metadata=ADMIN)).results]

    async def send_cloudevents(self, *times: object) -> list[str]:
        """The same over CloudEvents, with each time as it stands in JSON."""
        events = [
            {
                "specversion": "1.0",
                "type": "dev.tollbook.usage.v1",
                "source": "tests",
                "id": str(place),
                "time": time,
                "data": {
                    "subject": {"organizationId": self.organization_id},
                    "measurements": [{"meter": "api_calls", "quantity": 1}],
                },
            }
            for place, time in enumerate(times)
        ]
        stub: cloudevents_pb2_grpc.CloudEventsServiceAsyncStub = cloudevents_pb2_grpc.CloudEventsServiceStub(
            self.metering.channel
        )
        request = cloudevents_pb2.IngestCloudEventsRequest(
            body=json.dumps(events).encode(), content_type="application/cloudevents-batch+json"
        )
        return [said(result) for result in (await stub.IngestCloudEvents(request, metadata=ADMIN)).results]

    async def windows(
        self, start: datetime, end: datetime, size: metering_pb2.UsageWindow.ValueType, zone: str = ""
    ) -> list[tuple[str, int]]:
        """The beginning of each window that has usage, in UTC, and how much."""
        request = metering_pb2.QueryUsageRequest(organization_id=self.organization_id, window=size, time_zone=zone)
        request.start_time.FromDatetime(start)
        request.end_time.FromDatetime(end)
        answer = await self.metering.stub.QueryUsage(request, metadata=ADMIN)
        return [(f"{row.window_start.ToDatetime():%Y-%m-%d %H:%M}", row.quantity) for row in answer.rows]

    async def recorded(self) -> list[tuple[int, int]]:
        """The times of what is in the ledger."""
        request = metering_pb2.ListUsageEventsRequest(organization_id=self.organization_id)
        answer = await self.metering.stub.ListUsageEvents(request, metadata=ADMIN)
        return [(each.event.event_time.seconds, each.event.event_time.nanos) for each in answer.events]


def said(result: metering_pb2.EventResult) -> str:
    reason = errors_pb2.ErrorReason.Name(result.reason).removeprefix("ERROR_REASON_")
    status = metering_pb2.EventStatus.Name(result.status).removeprefix("EVENT_STATUS_")
    return status if reason == "UNSPECIFIED" else reason


def at(moment: datetime, nanos: int = 0) -> tuple[int, int]:
    return int(moment.timestamp()), nanos


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def metering(
    tmp_path_factory: pytest.TempPathFactory, migrated: Callable[[str], RoleUrls]
) -> AsyncIterator[MeteringProcess]:
    log_path: Path = tmp_path_factory.mktemp("times") / "metering.log"
    async with serving_accounts() as accounts_address:
        site = Site(urls=migrated("metering"), accounts_address=accounts_address, log_path=log_path)
        async with metering_processes(site) as (process,):
            yield process


@pytest.fixture
def sender(metering: MeteringProcess) -> Sender:
    return Sender(metering=metering, organization_id=f"org-{uuid4().hex}")


async def test_an_event_is_accepted_from_35_days_back_to_5_minutes_ahead_and_refused_by_name_outside(
    sender: Sender,
) -> None:
    now = datetime.now(UTC)
    minute = timedelta(minutes=1)
    back, ahead = limits.ACCEPTED_BACK, limits.ACCEPTED_AHEAD
    moments = [now - back - minute, now - back + minute, now, now + ahead - minute, now + ahead + minute]
    far = [utc("1969-12-31T23:59:59"), utc("0001-01-01T00:00:00"), utc("9999-12-31T23:59:59")]
    assert await sender.send(*(at(moment) for moment in (*moments, *far)), (2**62, 0), (-(2**62), 0)) == [
        "EVENT_TOO_OLD",
        "ACCEPTED",
        "ACCEPTED",
        "ACCEPTED",
        "EVENT_IN_FUTURE",
        "EVENT_TOO_OLD",
        "EVENT_TOO_OLD",
        "EVENT_IN_FUTURE",
        "EVENT_IN_FUTURE",
        "EVENT_TOO_OLD",
    ]


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_a_producer_whose_clock_is_ten_minutes_off_is_recorded_at_its_own_time_or_told_that_it_is_ahead(
    sender: Sender, minutes: int
) -> None:
    skewed = datetime.now(UTC) + timedelta(minutes=minutes)
    if minutes > 0:
        assert await sender.send(at(skewed)) == ["EVENT_IN_FUTURE"]
        assert await sender.recorded() == []
    else:
        assert await sender.send(at(skewed)) == ["ACCEPTED"]
        assert await sender.recorded() == [at(skewed)]


async def test_nanoseconds_are_kept_and_an_edge_between_two_of_them_parts_no_event_wrongly(sender: Sender) -> None:
    second = datetime.now(UTC).replace(microsecond=0) - 10 * SECOND
    times = [at(second - SECOND, 999_999_999), at(second), at(second, 1), at(second, 123_456_789)]
    assert await sender.send(*times) == ["ACCEPTED"] * 4
    assert await sender.recorded() == times
    # The same instants again are the same events; one nanosecond off is another content.
    assert await sender.send(*times) == ["DUPLICATE"] * 4
    moved = [(seconds, nanos ^ 1) for seconds, nanos in times]
    assert await sender.send(*moved) == ["CONTENT_CONFLICT"] * 4
    before = await sender.windows(second - 5 * SECOND, second, metering_pb2.USAGE_WINDOW_MONTH)
    after = await sender.windows(second, second + 5 * SECOND, metering_pb2.USAGE_WINDOW_MONTH)
    assert ([quantity for _, quantity in before], [quantity for _, quantity in after]) == ([1], [3])


@pytest.mark.parametrize(("year", "day"), [(2024, "2024-02-29"), (2023, "2023-02-28"), (2000, "2000-02-29")])
async def test_the_last_instant_of_february_is_februarys_also_in_a_leap_year(
    sender: Sender, year: int, day: str
) -> None:
    march = datetime(year, 3, 1, tzinfo=UTC)
    assert await sender.send(at(march - SECOND, 999_999_999), at(march), backfill=True) == ["ACCEPTED"] * 2
    start, end = march - timedelta(days=40), march + timedelta(days=40)
    months = await sender.windows(start, end, metering_pb2.USAGE_WINDOW_MONTH)
    assert months == [(f"{year}-02-01 00:00", 1), (f"{year}-03-01 00:00", 1)]
    days = await sender.windows(start, end, metering_pb2.USAGE_WINDOW_DAY)
    assert days == [(f"{day} 00:00", 1), (f"{year}-03-01 00:00", 1)]


async def test_the_hour_that_clocks_skip_has_no_window_and_loses_no_event(sender: Sender) -> None:
    # On 30 March 2025, 02:00 to 03:00 did not happen in Vienna: 01:59:59.9 and 03:00 are neighbours.
    jump = utc("2025-03-30T01:00:00")
    assert await sender.send(at(jump - SECOND, 999_999_999), at(jump), backfill=True) == ["ACCEPTED"] * 2
    start, end = utc("2025-03-29T23:00:00"), utc("2025-03-30T22:00:00")
    hours = await sender.windows(start, end, metering_pb2.USAGE_WINDOW_HOUR, VIENNA)
    assert hours == [("2025-03-30 00:00", 1), ("2025-03-30 01:00", 1)]
    assert await sender.windows(start, end, metering_pb2.USAGE_WINDOW_DAY, VIENNA) == [("2025-03-29 23:00", 2)]


async def test_the_hour_that_happens_twice_is_two_windows_and_each_event_in_one_of_them(sender: Sender) -> None:
    # On 26 October 2025, 02:30 happened twice in Vienna: at 00:30 and at 01:30 UTC.
    twice = [utc("2025-10-26T00:30:00"), utc("2025-10-26T01:30:00"), utc("2025-10-26T01:00:00")]
    assert await sender.send(*(at(moment) for moment in twice), backfill=True) == ["ACCEPTED"] * 3
    start, end = utc("2025-10-25T22:00:00"), utc("2025-10-26T23:00:00")
    hours = await sender.windows(start, end, metering_pb2.USAGE_WINDOW_HOUR, VIENNA)
    assert hours == [("2025-10-26 00:00", 1), ("2025-10-26 01:00", 2)]
    assert await sender.windows(start, end, metering_pb2.USAGE_WINDOW_DAY, VIENNA) == [("2025-10-25 22:00", 3)]


async def test_a_time_that_is_a_number_or_has_no_zone_is_refused_and_never_guessed(sender: Sender) -> None:
    """B6: .1 has no exact float, so an epoch with a fraction would land on one side of an edge or the other."""
    now = datetime.now(UTC).replace(microsecond=0)
    epoch = now.timestamp() + 0.1
    bare = now.replace(tzinfo=None).isoformat()
    unsound = [epoch, int(epoch), str(epoch), bare, f"{bare} +00:00", f"{bare}.1234567890Z", f"{bare[:10]}", None, ""]
    results = await sender.send_cloudevents(*unsound)
    assert set(results) <= {"INVALID_FIELD", "INVALID_QUANTITY"}
    assert await sender.recorded() == []


async def test_a_fraction_in_text_is_kept_to_the_nanosecond_and_a_zone_is_applied(sender: Sender) -> None:
    """B6."""
    now = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    bare = now.replace(tzinfo=None).isoformat()
    local = (now + timedelta(hours=5, minutes=30)).replace(tzinfo=None).isoformat()
    times = [f"{bare}.1Z", f"{bare}.123456789Z", f"{bare}.999999999Z", f"{local}.000000001+05:30"]
    assert await sender.send_cloudevents(*times) == ["ACCEPTED"] * 4
    assert await sender.recorded() == [at(now, nanos) for nanos in (100_000_000, 123_456_789, 999_999_999, 1)]
