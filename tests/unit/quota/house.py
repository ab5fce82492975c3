"""Quota put together over any store, with its peers in memory: what bootstrap does, for tests of the use cases."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Protocol

from kit.clock import Clock, SystemClock
from kit.feed import Follower
from services.quota.adapters.memory import MemoryEntitlements, MemoryLedger, MemoryMeters
from services.quota.adapters.memory_limits import MemoryLimits
from services.quota.application.answer_degraded import AnswerDegraded
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
from services.quota.application.ports import (
    Answer,
    Counters,
    CounterUpkeep,
    Expiries,
    Ledger,
    Members,
    Reservations,
    TermsShelf,
)
from services.quota.application.put_in_force import PutInForce
from services.quota.application.rebuild_counters import RebuildCounters
from services.quota.application.register_grants import RegisterGrants
from services.quota.application.release_reservation import ReleaseReservation
from services.quota.application.remember_denials import RememberDenials
from services.quota.application.set_limit import SetLimit
from services.quota.application.settle_counters import SettleCounters
from services.quota.application.settle_swept import SettleSwept
from services.quota.application.watch_quotas import WatchQuotas
from services.quota.domain.decisions import LimitState
from services.quota.domain.limits import ORGANIZATION, Counter
from services.quota.domain.usage import UsageEntry
from services.quota.rpc.many_checks import ManyChecks
from services.quota.rpc.quota_servicer import QuotaServicer
from services.quota.rpc.quota_watches import QuotaWatches
from tests.unit.quota.samples import AGENTS, CALLS, LATENCY, MINUTES, reserve_check


class Store(Counters, Members, Reservations, CounterUpkeep, Expiries, TermsShelf, Protocol):
    """All the ports over one store."""


class House:
    """One process of quota. Several over one store and the same peers are several replicas."""

    def __init__(
        self,
        store: Store,
        organization_id: str,
        *,
        ledger: Ledger | None = None,
        source: MemoryEntitlements | None = None,
        limits: MemoryLimits | None = None,
        remembers_denials: bool = False,
        clock: Clock | None = None,
        search_clock: Callable[[], float] = monotonic,
    ) -> None:
        self.organization_id = organization_id
        self.recorded = MemoryLedger()
        self.plans = source or MemoryEntitlements()
        read_ledger = ledger or self.recorded
        self.limits = limits or MemoryLimits()
        self.terms = FindTerms(store, self.plans, self.limits)
        self.rebuild = RebuildCounters(store, self.terms, read_ledger)
        self.usage = Follower("ledger", read_ledger, UsageEffect(store, self.rebuild))
        effect = EntitlementEffect(store, self.plans, self.terms)
        self.plan_changes = Follower("entitlements", self.plans, effect)
        self.agenda = ExpiryAgenda()
        self.free_expired = FreeExpired(store, read_ledger, self.agenda, catch_up=self.usage.catch_up)
        self.settle = settle = SettleCounters(self.terms, self.rebuild, store, catch_up=self.usage.catch_up)
        swept = SettleSwept(settle, self.free_expired, self.agenda)
        meters = MemoryMeters(MINUTES, AGENTS, CALLS, otherwise=[LATENCY])
        self.limit_changes = Follower("limits", self.limits, LimitsEffect(store, self.limits, self.terms))
        self.pauses: list[float] = []
        put_in_force = PutInForce(
            self.limits, store, self.terms, catch_up=self.limit_changes.catch_up, pause=self._pause
        )
        self.set_limit = SetLimit(self.limits, meters, put_in_force)
        self.delete_limit = DeleteLimit(self.limits, put_in_force)
        self.list_limits = ListLimits(self.limits, self.terms)
        clock = clock or SystemClock()
        self.grants, seen = Grants(), LastSeen()
        self.register = RegisterGrants(
            store, settle, terms=self.terms, grants=self.grants, seen=seen, agenda=self.agenda, clock=clock
        )
        fallback = Fallback(self.register, seen, AnswerDegraded(self.terms, seen, self.grants, clock), self.grants)
        self.together = CheckTogether(store, together_max=8, calls_max=8)
        decides = RememberDenials(self.together) if remembers_denials else self.together
        self.check = CheckQuota(decides, meters, swept, terms=self.terms, agenda=self.agenda, fallback=fallback)
        self.check_batch = CheckBatch(
            store, meters, settle, self.free_expired, self.agenda, terms=self.terms, fallback=fallback
        )
        self.check_all = CheckAll(store, meters, swept, fallback=fallback)
        self.extend = ExtendReservation(store, meters, swept, fallback=fallback)
        self.commit = CommitReservation(store, self.agenda, fallback)
        self.release = ReleaseReservation(store, self.free_expired, self.agenda, fallback)
        self.list = ListQuotas(store, swept, FindMembers(store, clock=search_clock))
        self.watch = WatchQuotas(self.list)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def servicer(self, *organization_ids: str) -> QuotaServicer:
        """The service of this process, to which these organizations exist."""

        async def exists(organization_id: str) -> bool:
            return organization_id in organization_ids

        return QuotaServicer(
            check_quota=self.check,
            many_checks=ManyChecks(self.check, self.check_batch, exists),
            extend_reservation=self.extend,
            commit_reservation=self.commit,
            release_reservation=self.release,
            list_quotas=self.list,
            quota_watches=QuotaWatches(self.watch, exists),
            set_limit=self.set_limit,
            list_limits=self.list_limits,
            delete_limit=self.delete_limit,
            exists=exists,
        )

    def record(self, *entries: UsageEntry) -> None:
        self.recorded.append(self.organization_id, *entries)

    async def follow(self) -> None:
        await self.usage.catch_up(self.organization_id)

    async def reserve(
        self, request_id: str = "r1", *, reserve_us: int = 3_600_000_000, user_id: str = "", **quantities: int
    ) -> Answer:
        check = reserve_check(
            self.organization_id, quantities, request_id=request_id, reserve_us=reserve_us, user_id=user_id
        )
        return await self.check(check)

    async def quota(self, meter: str = MINUTES) -> LimitState:
        quotas = await self.list(self.organization_id)
        return next(state for state in quotas.states if state.counter == Counter(ORGANIZATION, meter))
