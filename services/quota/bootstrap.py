"""Puts quota together: the only file that names concrete adapters."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from kit.clock import SystemClock
from kit.feed import Follower
from kit.grpc.client import connect
from kit.grpc.identity import Authenticator, RemoteKeyDirectory, RemoteOrganizations
from kit.grpc.server import Application
from kit.postgres.database import Database
from kit.redis.client import ping_redis
from kit.redis.connect import commands_at
from services.quota.adapters.billing_client import RemoteEntitlements
from services.quota.adapters.metering_client import RemoteLedger, RemoteMeters
from services.quota.adapters.postgres_limits import PostgresLimitChanges, PostgresLimits
from services.quota.adapters.redis_counters.calls import COMMANDS_IN_FLIGHT_MAX
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.answer_degraded import AnswerDegraded
from services.quota.application.audit_counters import AuditCounters
from services.quota.application.check_all import CheckAll
from services.quota.application.check_batch import CheckBatch
from services.quota.application.check_quota import CheckQuota
from services.quota.application.check_together import CheckTogether
from services.quota.application.commit_reservation import CommitReservation
from services.quota.application.delete_limit import DeleteLimit
from services.quota.application.expiry_agenda import ExpiryAgenda
from services.quota.application.extend_reservation import ExtendReservation
from services.quota.application.fallback import Fallback
from services.quota.application.find_members import FindMembers
from services.quota.application.find_terms import FindTerms
from services.quota.application.follow_entitlements import EntitlementEffect
from services.quota.application.follow_limits import LimitsEffect
from services.quota.application.follow_usage import UsageEffect
from services.quota.application.free_expired import FreeExpired
from services.quota.application.grants import Grants
from services.quota.application.last_seen import LastSeen
from services.quota.application.list_limits import ListLimits
from services.quota.application.list_quotas import ListQuotas
from services.quota.application.put_in_force import PutInForce
from services.quota.application.rebuild_counters import RebuildCounters
from services.quota.application.register_grants import RegisterGrants
from services.quota.application.release_reservation import ReleaseReservation
from services.quota.application.remember_denials import RememberDenials
from services.quota.application.set_limit import SetLimit
from services.quota.application.settle_counters import SettleCounters
from services.quota.application.settle_swept import SettleSwept
from services.quota.application.watch_quotas import WatchQuotas
from services.quota.config import QuotaSettings
from services.quota.rpc.envoy_servicer import FOREIGN_SCOPES, RateLimitServicer
from services.quota.rpc.many_checks import ManyChecks
from services.quota.rpc.quota_servicer import QuotaServicer
from services.quota.rpc.quota_watches import QuotaWatches
from services.quota.rpc.upkeep_servicer import UpkeepServicer
from services.quota.workers.auditing import keep_auditing
from services.quota.workers.expiry import keep_freeing
from services.quota.workers.registering import keep_registering


async def bootstrap(settings: QuotaSettings, resources: AsyncExitStack) -> Application:
    """The service, with everything it opened handed to `resources`."""
    check_seconds, upkeep_seconds = (
        milliseconds / 1_000 for milliseconds in (settings.redis_check_milliseconds, settings.redis_upkeep_milliseconds)
    )
    # Two connections, so that no check waits behind upkeep, nor upkeep is held to the budget of checks. That is kept by
    # the store, which does not count our own delays.
    hasty = await resources.enter_async_context(
        commands_at(settings.redis_url, timeout_seconds=max(check_seconds, upkeep_seconds))
    )
    patient = await resources.enter_async_context(commands_at(settings.redis_url, timeout_seconds=upkeep_seconds))
    tenant, fleet = Database(settings.postgres_tenant_url), Database(settings.postgres_fleet_url)
    for database in (tenant, fleet):
        resources.push_async_callback(database.close)
    metering, billing, accounts = [
        await resources.enter_async_context(connect(address, settings.service_key))
        for address in (settings.metering_address, settings.billing_address, settings.accounts_address)
    ]

    counters = RedisCounters(hasty, command_seconds=check_seconds)
    upkeep = RedisCounters(patient, command_seconds=upkeep_seconds)
    ledger, source = RemoteLedger(metering), RemoteEntitlements(billing)
    record = PostgresLimits(tenant)
    terms = FindTerms(counters, source, record)
    rebuild = RebuildCounters(upkeep, terms, ledger)
    usage_follower = Follower("ledger", ledger, UsageEffect(upkeep, rebuild))
    entitlement_follower = Follower("entitlements", source, EntitlementEffect(upkeep, source, terms))
    changes = PostgresLimitChanges(tenant, fleet, record)
    limits_follower = Follower("limits", changes, LimitsEffect(upkeep, record, terms))
    followers = (entitlement_follower, limits_follower, usage_follower)
    settle = SettleCounters(terms, rebuild, counters, catch_up=usage_follower.catch_up)
    agenda = ExpiryAgenda()
    free_expired = FreeExpired(upkeep, ledger, agenda, catch_up=usage_follower.catch_up)
    swept = SettleSwept(settle, free_expired, agenda)
    organizations = RemoteOrganizations(accounts)
    audit = AuditCounters(upkeep, ledger, rebuild)
    meters = RemoteMeters(metering)
    put_in_force = PutInForce(record, upkeep, terms, catch_up=limits_follower.catch_up)
    together = CheckTogether(
        counters,
        together_max=settings.checks_together_max,
        calls_max=COMMANDS_IN_FLIGHT_MAX,
        window_seconds=settings.checks_window_microseconds / 1e6,
    )
    clock, seen, grants = SystemClock(), LastSeen(), Grants()
    register = RegisterGrants(counters, settle, terms=terms, grants=grants, seen=seen, agenda=agenda, clock=clock)
    fallback = Fallback(register, seen, AnswerDegraded(terms, seen, grants, clock), grants)
    check_quota = CheckQuota(RememberDenials(together), meters, swept, terms=terms, agenda=agenda, fallback=fallback)
    check_batch = CheckBatch(counters, meters, settle, free_expired, agenda, terms=terms, fallback=fallback)
    many_checks = ManyChecks(check_quota, check_batch, organizations.exists)
    find_members = FindMembers(upkeep)
    # Beside the checks: they wait for no watcher, and a watcher can wait longer than they.
    settle_upkeep = SettleCounters(terms, rebuild, upkeep, catch_up=usage_follower.catch_up)
    watch_quotas = WatchQuotas(ListQuotas(upkeep, SettleSwept(settle_upkeep, free_expired, agenda), find_members))
    servicer = QuotaServicer(
        check_quota=check_quota,
        many_checks=many_checks,
        extend_reservation=ExtendReservation(counters, meters, swept, fallback=fallback),
        commit_reservation=CommitReservation(counters, agenda, fallback),
        release_reservation=ReleaseReservation(counters, free_expired, agenda, fallback),
        quota_watches=QuotaWatches(watch_quotas, organizations.exists),
        list_quotas=ListQuotas(counters, swept, find_members),
        set_limit=SetLimit(record, meters, put_in_force),
        list_limits=ListLimits(record, terms),
        delete_limit=DeleteLimit(record, put_in_force),
        exists=organizations.exists,
    )
    rate_limits = RateLimitServicer(
        check_quota=check_quota,
        check_all=CheckAll(counters, meters, swept, fallback=fallback),
        exists=organizations.exists,
    )

    async def prepare() -> None:
        for database in (tenant, fleet):
            await database.assert_safe_role()
        # The connection first: making one takes several answers, more than the budget of a check may allow.
        await ping_redis(hasty)

    return Application(
        authenticator=Authenticator(RemoteKeyDirectory(accounts), settings.service_key_hashes),
        servicers=[servicer, rate_limits, UpkeepServicer(audit=audit, exists=organizations.exists)],
        foreign_scopes=FOREIGN_SCOPES,
        workers={
            "ledger": usage_follower.run,
            "entitlements": entitlement_follower.run,
            "limits": limits_follower.run,
            "watches": watch_quotas.run,
            "audit": partial(keep_auditing, terms.remembered, followers, audit),
            "expiry": partial(keep_freeing, agenda, free_expired),
            "grants": partial(keep_registering, grants, register),
        },
        prepare=prepare,
        drain=many_checks.drain,
    )
