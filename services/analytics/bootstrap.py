"""Puts analytics together: the only file that names concrete adapters."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from kit.clock import SystemClock
from kit.confirmations import Confirmations
from kit.feed import Follower
from kit.grpc.client import connect
from kit.grpc.identity import Authenticator, RemoteKeyDirectory, RemoteOrganizations
from kit.grpc.server import Application
from kit.postgres.database import Database
from services.analytics.adapters.ledger_feed import LedgerFeed
from services.analytics.adapters.postgres_costs import (
    PostgresCostReader,
    PostgresCostRerater,
    PostgresCostWriter,
)
from services.analytics.adapters.postgres_prices import PostgresPriceBook
from services.analytics.adapters.remote_zones import RemoteTimeZones
from services.analytics.application.rate_calls import RateCalls
from services.analytics.application.rerate_calls import RerateCalls
from services.analytics.application.set_price import SetPrice
from services.analytics.application.summarize_costs import SummarizeCosts
from services.analytics.config import AnalyticsSettings
from services.analytics.domain import limits
from services.analytics.rpc.analytics_servicer import AnalyticsServicer
from services.analytics.rpc.price_servicer import PriceServicer
from services.analytics.workers.rerating import keep_rerating


async def bootstrap(settings: AnalyticsSettings, resources: AsyncExitStack) -> Application:
    """The service, with everything it opened handed to `resources`."""
    tenant, writer, fleet = databases = (
        Database(settings.postgres_tenant_url),
        Database(settings.postgres_writer_url),
        Database(settings.postgres_fleet_url),
    )
    for database in databases:
        resources.push_async_callback(database.close)
    accounts = await resources.enter_async_context(connect(settings.accounts_address, settings.service_key))
    metering = await resources.enter_async_context(connect(settings.metering_address, settings.service_key))

    prices = PostgresPriceBook(tenant, writer)
    organizations = RemoteOrganizations(accounts)
    summarize_costs = SummarizeCosts(PostgresCostReader(tenant), prices, RemoteTimeZones(organizations), SystemClock())
    analytics = AnalyticsServicer(summarize_costs=summarize_costs, exists=organizations.exists)
    price = PriceServicer(prices=prices, set_price=SetPrice(prices))
    feed = LedgerFeed(metering)
    confirmations = Confirmations(feed.confirm)
    follower = Follower(
        "ledger",
        feed,
        RateCalls(PostgresCostWriter(writer), prices, feed),
        entries_at_once=limits.RATED_AT_ONCE,
        reached=confirmations.note,
    )
    rerate_calls = RerateCalls(PostgresCostRerater(writer, fleet), prices)

    async def prepare() -> None:
        for database in databases:
            await database.assert_safe_role()

    return Application(
        authenticator=Authenticator(RemoteKeyDirectory(accounts), settings.service_key_hashes),
        servicers=[analytics, price],
        workers={
            "follower": follower.run,
            "confirmations": confirmations.run,
            "rerating": partial(keep_rerating, rerate_calls),
        },
        prepare=prepare,
        ready=[database.ping for database in databases],
    )
