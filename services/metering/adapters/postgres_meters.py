"""The catalog of meters in Postgres: read as the tenant role, written as the writer role."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Any

import structlog
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.errors import DependencyUnavailable
from kit.postgres.database import Database
from services.metering.domain.grouping import dimension_from_text, dimension_to_text
from services.metering.domain.meters import Aggregation, Meter, MeterRequest, ValueSource, decide

log = structlog.get_logger()

METERS_BELIEVED_SECONDS = 5.0
METERS_READ_SECONDS = 1.0
"""How long a call waits for a newer catalog when there is one to go on with."""


class PostgresMeterCatalog:
    """MeterRegistry; believes what it read for a few seconds, and for as long as the store does not answer."""

    def __init__(self, tenant: Database, writer: Database) -> None:
        self._tenant = tenant
        self._writer = writer
        self._meters: dict[str, Meter] = {}
        self._read_at = float("-inf")
        self._added_count = 0
        self._reading: asyncio.Task[None] | None = None

    async def meters(self) -> Mapping[str, Meter]:
        """As MeterRegistry."""
        if monotonic() - self._read_at > METERS_BELIEVED_SECONDS:
            await self._read_once()
        return self._meters

    async def _read_once(self) -> None:
        # Many calls at once read once. While the store hangs, what was read before serves after a moment: calls must
        # not pile up here with their batches in hand, before anybody counts them.
        reading = self._reading = self._reading or asyncio.create_task(self._read())
        await asyncio.wait({reading}, timeout=METERS_READ_SECONDS if self._meters else None)
        if reading.done():
            reading.result()

    async def _read(self) -> None:
        try:
            while True:
                read_at, added_count = monotonic(), self._added_count
                async with self._tenant.transaction() as connection:
                    meters = await _meters(connection)
                if added_count == self._added_count:  # else maybe read before a meter that was added meanwhile
                    self._meters, self._read_at = meters, read_at
                    return
        except DependencyUnavailable as error:
            if not self._meters:
                raise
            log.warning("meters_not_read", error=str(error))
        finally:
            self._reading = None

    async def add(self, request: MeterRequest) -> Meter:
        """As MeterRegistry."""
        async with self._writer.transaction() as connection:
            # One at a time: the decision sees every meter and every request before it.
            await connection.execute(_LOCK)
            remembered = (await connection.execute(_REMEMBERED, {"request_id": request.request_id})).scalar()
            meter = decide(request, await _meters(connection), remembered=remembered)
            if remembered is None:
                await connection.execute(_REMEMBER, {"request_id": request.request_id, "content": request.content})
            if meter is not None:
                await connection.execute(_ADD, _meter_to_row(meter))
        self._read_at = float("-inf")
        self._added_count += 1
        return request.meter


async def _meters(connection: AsyncConnection) -> dict[str, Meter]:
    return {row.name: _meter_from_row(row) for row in await connection.execute(_METERS)}


def _meter_from_row(row: Row[Any]) -> Meter:
    return Meter(
        name=row.name,
        base_unit=row.base_unit,
        display_unit=row.display_unit,
        base_units_per_display_unit=row.base_units_per_display_unit,
        aggregation=Aggregation(row.aggregation),
        value_source=ValueSource(row.value_source),
        dimension=None if row.dimension is None else dimension_from_text(row.dimension, field="dimension"),
    )


def _meter_to_row(meter: Meter) -> dict[str, str | int | None]:
    return {
        "name": meter.name,
        "base_unit": meter.base_unit,
        "display_unit": meter.display_unit,
        "base_units_per_display_unit": meter.base_units_per_display_unit,
        "aggregation": meter.aggregation.value,
        "value_source": meter.value_source.value,
        "dimension": None if meter.dimension is None else dimension_to_text(meter.dimension),
    }


_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('metering.meters'))")
_METERS = text("""
    SELECT name, base_unit, display_unit, base_units_per_display_unit, aggregation, value_source, dimension
    FROM metering.meters
""")
_ADD = text("""
    INSERT INTO metering.meters (name, base_unit, display_unit, base_units_per_display_unit, aggregation, value_source,
                                 dimension)
    VALUES (:name, :base_unit, :display_unit, :base_units_per_display_unit, :aggregation, :value_source, :dimension)
""")
_REMEMBERED = text("SELECT content FROM metering.meter_requests WHERE request_id = :request_id")
_REMEMBER = text("INSERT INTO metering.meter_requests (request_id, content) VALUES (:request_id, :content)")
