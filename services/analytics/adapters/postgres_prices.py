"""The prices in Postgres: read as the tenant role, written as the writer role; see migrations/0001_costs.py."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.postgres.database import Database
from services.analytics.domain.price_requests import PriceRequest, decide
from services.analytics.domain.prices import KeptPrice, Price, PriceTable


class PostgresPriceBook:
    """PriceBook; keeps the newest table in memory and asks for its version alone each time."""

    def __init__(self, tenant: Database, writer: Database) -> None:
        self._tenant = tenant
        self._writer = writer
        self._table = PriceTable()

    async def current(self) -> PriceTable:
        """As PriceBook."""
        # Read once: another task may put a newer table in its place meanwhile.
        table = self._table
        async with self._tenant.transaction(snapshot=True) as connection:
            version = (await connection.execute(_VERSION)).scalar_one()
            if version != table.version:
                table = await _table(connection, version)
        if table.version > self._table.version:
            self._table = table
        return table

    async def set_price(self, request: PriceRequest) -> Price:
        """As PriceBook."""
        async with self._writer.transaction() as connection:
            version = (await connection.execute(_LOCK_VERSION)).scalar_one()
            remembered = (await connection.execute(_REMEMBERED, {"request_id": request.request_id})).scalar()
            decision = decide(request, await _table(connection, version), remembered=remembered)
            if remembered is None:
                await connection.execute(_REMEMBER, {"request_id": request.request_id, "content": request.content})
            if decision.adds_price:
                await connection.execute(_ADD_PRICE, asdict(request.price) | {"version": version + 1})
            if decision.sets_baseline:
                names = {"provider": request.price.provider, "version": version + 1}
                await connection.execute(_ADD_BASELINE, names)
            if decision.adds_price or decision.sets_baseline:
                await connection.execute(_MOVE_VERSION, {"version": version + 1})
            return decision.price


async def _table(connection: AsyncConnection, version: int) -> PriceTable:
    prices = [_kept_from_row(row) for row in await connection.execute(_PRICES)]
    baseline = (await connection.execute(_BASELINE)).one_or_none()
    return PriceTable(
        version=version,
        prices=prices,
        baseline_provider=baseline.provider if baseline else "",
        baseline_version=baseline.version if baseline else 0,
    )


def _kept_from_row(row: Row[Any]) -> KeptPrice:
    return KeptPrice(
        row.version,
        Price(
            provider=row.provider,
            model=row.model,
            effective_time=row.effective_time,
            input_per_thousand=row.input_per_thousand,
            output_per_thousand=row.output_per_thousand,
            cache_read_per_thousand=row.cache_read_per_thousand,
            cache_write_per_thousand=row.cache_write_per_thousand,
        ),
    )


_VERSION = text("SELECT version FROM analytics.price_head")
_LOCK_VERSION = text("SELECT version FROM analytics.price_head FOR UPDATE")
_MOVE_VERSION = text("UPDATE analytics.price_head SET version = :version")
_REMEMBERED = text("SELECT content FROM analytics.price_requests WHERE request_id = :request_id")
_REMEMBER = text("INSERT INTO analytics.price_requests (request_id, content) VALUES (:request_id, :content)")
_PRICES = text("""
    SELECT version, provider, model, effective_time, input_per_thousand, output_per_thousand,
        cache_read_per_thousand, cache_write_per_thousand
    FROM analytics.prices
""")
_ADD_PRICE = text("""
    INSERT INTO analytics.prices (version, provider, model, effective_time, input_per_thousand, output_per_thousand,
                                  cache_read_per_thousand, cache_write_per_thousand)
    VALUES (:version, :provider, :model, :effective_time, :input_per_thousand, :output_per_thousand,
            :cache_read_per_thousand, :cache_write_per_thousand)
""")
_BASELINE = text("SELECT version, provider FROM analytics.baselines ORDER BY version DESC LIMIT 1")
_ADD_BASELINE = text("INSERT INTO analytics.baselines (version, provider) VALUES (:version, :provider)")
