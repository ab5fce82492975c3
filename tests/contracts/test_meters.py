"""The promises of MeterRegistry, on memory and on Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from uuid import uuid4

import pytest

from kit.errors import AlreadyExists, LimitExceeded, RequestIdReused
from kit.postgres.database import Database
from services.metering.adapters.memory import MemoryMeterCatalog
from services.metering.adapters.postgres_meters import PostgresMeterCatalog
from services.metering.application.ports import MeterRegistry
from services.metering.domain import limits
from services.metering.domain.grouping import Label, SubjectPart
from services.metering.domain.meters import Aggregation, Meter, MeterRequest, ValueSource
from tests.usage_model import meter


@pytest.fixture(params=["memory", "postgres"])
async def meters(
    request: pytest.FixtureRequest, migrated: Callable[[str], dict[str, str]]
) -> AsyncIterator[MeterRegistry]:
    if request.param == "memory":
        yield MemoryMeterCatalog()
        return
    urls = migrated("metering")
    databases = [Database(urls["tenant"]), Database(urls["writer"])]
    yield PostgresMeterCatalog(*databases)
    for database in databases:
        await database.close()


def fresh(aggregation: Aggregation = Aggregation.SUM) -> Meter:
    """A meter that no other test makes."""
    return replace(meter("m", aggregation), name=f"m_{uuid4().hex}", display_unit="thousand", base_unit="one")


def asked(wanted: Meter, request_id: str = "") -> MeterRequest:
    return MeterRequest(request_id or uuid4().hex, wanted)


@pytest.mark.parametrize("aggregation", [each for each in Aggregation if each is not Aggregation.UNIQUE_COUNT])
@pytest.mark.parametrize("source", [each for each in ValueSource if each is not ValueSource.DIMENSION])
async def test_a_meter_is_kept_as_it_was_asked_for(
    meters: MeterRegistry, aggregation: Aggregation, source: ValueSource
) -> None:
    wanted = replace(fresh(aggregation), value_source=source, base_units_per_display_unit=limits.QUANTITY_MAX)
    assert await meters.add(asked(wanted)) == wanted
    assert (await meters.meters())[wanted.name] == wanted


@pytest.mark.parametrize("dimension", [*SubjectPart, Label("env")])
async def test_a_meter_of_different_values_keeps_its_dimension(
    meters: MeterRegistry, dimension: SubjectPart | Label
) -> None:
    wanted = replace(fresh(Aggregation.UNIQUE_COUNT), value_source=ValueSource.DIMENSION, dimension=dimension)
    await meters.add(asked(wanted))
    assert (await meters.meters())[wanted.name] == wanted


async def test_a_repeated_request_changes_nothing(meters: MeterRegistry) -> None:
    request = asked(fresh())
    assert await meters.add(request) == await meters.add(request) == request.meter


async def test_the_same_meter_under_another_id_changes_nothing(meters: MeterRegistry) -> None:
    wanted = fresh()
    assert await meters.add(asked(wanted)) == await meters.add(asked(wanted)) == wanted


async def test_a_meter_is_never_changed(meters: MeterRegistry) -> None:
    wanted = fresh()
    await meters.add(asked(wanted))
    for other in (replace(wanted, aggregation=Aggregation.MAX), replace(wanted, base_units_per_display_unit=2)):
        with pytest.raises(AlreadyExists):
            await meters.add(asked(other))
    assert (await meters.meters())[wanted.name] == wanted


async def test_a_request_id_stands_for_one_meter(meters: MeterRegistry) -> None:
    request, other = asked(fresh()), fresh()
    await meters.add(request)
    with pytest.raises(RequestIdReused):
        await meters.add(asked(other, request.request_id))
    assert other.name not in await meters.meters()


async def test_of_two_definitions_at_once_one_is_kept(meters: MeterRegistry) -> None:
    wanted = fresh()
    definitions = [replace(wanted, base_units_per_display_unit=number) for number in range(1, 9)]
    answers = await asyncio.gather(*(meters.add(asked(each)) for each in definitions), return_exceptions=True)
    kept = [answer for answer in answers if isinstance(answer, Meter)]
    assert len(kept) == 1
    assert all(isinstance(answer, AlreadyExists) for answer in answers if answer is not kept[0])
    assert (await meters.meters())[wanted.name] == kept[0]


async def test_there_is_a_most_of_meters(meters: MeterRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    await meters.add(asked(fresh()))
    monkeypatch.setattr(limits, "METERS_MAX", len(await meters.meters()))
    refused = fresh()
    with pytest.raises(LimitExceeded):
        await meters.add(asked(refused))
    assert refused.name not in await meters.meters()
