"""Puts quota together: the only file that names concrete adapters."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

from kit.feed import Follower
from kit.grpc.client import connect
from kit.grpc.identity import Authenticator, RemoteKeyDirectory, RemoteOrganizations
from kit.grpc.server import Application
from kit.redis.client import connect_redis, ping_redis
from services.quota.adapters.billing_client import RemoteEntitlements
from services.quota.adapters.metering_client import RemoteLedger, RemoteMeters
from services.quota.adapters.redis_counters.store import COMMANDS_IN_FLIGHT_MAX, RedisCounters
from services.quota.application.check_quota import CheckQuota
from services.quota.application.expiry_agenda import ExpiryAgenda
from services.quota.application.find_entitlement import FindEntitlement
from services.quota.application.follow_entitlements import EntitlementEffect
from services.quota.application.follow_usage import UsageEffect
from services.quota.application.free_expired import FreeExpired
from services.quota.application.list_quotas import ListQuotas
from services.quota.application.rebuild_counters import RebuildCounters
from services.quota.application.settle_counters import SettleCounters
from services.quota.config import QuotaSettings
from services.quota.rpc.quota_servicer import QuotaServicer
from services.quota.workers.expiry import keep_freeing


async def bootstrap(settings: QuotaSettings, resources: AsyncExitStack) -> Application:
    """The service, with everything it opened handed to `resources`."""
    check_seconds, upkeep_seconds = (
        milliseconds / 1_000 for milliseconds in (settings.redis_check_milliseconds, settings.redis_upkeep_milliseconds)
    )
    # Two clients, so that upkeep can neither take the connections of checks nor be held to their budget. The budget of
    # checks is kept by the store, which does not count our own delays.
    hasty = connect_redis(settings.redis_url, timeout_seconds=max(check_seconds, upkeep_seconds))
    patient = connect_redis(settings.redis_url, timeout_seconds=upkeep_seconds)
    for client in (hasty, patient):
        resources.push_async_callback(client.aclose)
    metering, billing, accounts = [
        await resources.enter_async_context(connect(address, settings.service_key))
        for address in (settings.metering_address, settings.billing_address, settings.accounts_address)
    ]

    counters = RedisCounters(hasty, command_seconds=check_seconds)
    upkeep = RedisCounters(patient, command_seconds=upkeep_seconds)
    ledger, source = RemoteLedger(metering), RemoteEntitlements(billing)
    entitlements = FindEntitlement(counters, source)
    rebuild = RebuildCounters(upkeep, entitlements, ledger)
    usage_follower = Follower("ledger", ledger, UsageEffect(upkeep, rebuild))
    entitlement_follower = Follower("entitlements", source, EntitlementEffect(upkeep, source, entitlements))
    settle = SettleCounters(entitlements, rebuild)
    agenda = ExpiryAgenda()
    free_expired = FreeExpired(upkeep, ledger, agenda, catch_up=usage_follower.catch_up)
    servicer = QuotaServicer(
        check_quota=CheckQuota(counters, RemoteMeters(metering), settle, free_expired, agenda),
        list_quotas=ListQuotas(counters, settle, free_expired, agenda),
        exists=RemoteOrganizations(accounts).exists,
    )

    async def prepare() -> None:
        # Connections first: making one takes several answers, more than the budget of a check may allow.
        await asyncio.gather(*(ping_redis(hasty) for _ in range(COMMANDS_IN_FLIGHT_MAX)))

    return Application(
        authenticator=Authenticator(RemoteKeyDirectory(accounts), settings.service_key_hashes),
        servicers=[servicer],
        workers={
            "ledger": usage_follower.run,
            "entitlements": entitlement_follower.run,
            "expiry": partial(keep_freeing, agenda, free_expired),
        },
        prepare=prepare,
        ready=[partial(ping_redis, patient)],
    )
