"""What checks of an organization are decided by: its entitlement and the limits of its own, each in one version."""

from __future__ import annotations

from collections import Counter as Counts
from dataclasses import dataclass
from functools import cached_property

from services.quota.domain.checks import Check
from services.quota.domain.entitlements import Entitlement
from services.quota.domain.limits import PARTS, LevelMeter, Limit, ScopeKind


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLimits:
    """The limits that an organization has set, as of an entry of quota's change log: number 0 before the first."""

    organization_id: str
    sequence: int
    commit_id: str
    """Tells the entry from one that has its number in a log that was rewound."""
    limits: tuple[Limit, ...]


@dataclass(frozen=True)
class Terms:
    """An entitlement, and the limits that stand beside the plan's."""

    entitlement: Entitlement
    own: OwnLimits

    @property
    def organization_id(self) -> str:
        """Whose."""
        return self.entitlement.organization_id

    @cached_property
    def limits(self) -> tuple[Limit, ...]:
        """Every limit."""
        return self.entitlement.limits + self.own.limits

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The parts of a subject that some limit is of: other ids of a check change nothing about its decision."""
        levels = {limit.scope.kind for limit in self.limits}
        return tuple(part for kind, part in PARTS.items() if kind in levels)

    def limits_count(self, check: Check) -> int:
        """How many limits apply to a check, without looking at each."""
        counts, scopes = self._limit_counts, check.subject.scopes
        return len(check.brought) + sum(
            counts[each.meter, scope.kind, id_]
            for each in check.consumptions
            for scope in scopes
            for id_ in ((None, scope.id) if scope.id else (None,))
        )

    @cached_property
    def _limit_counts(self) -> Counts[tuple[str, ScopeKind, str | None]]:
        return Counts((limit.meter, limit.scope.kind, limit.scope.id) for limit in self.limits)

    @cached_property
    def tracked(self) -> frozenset[LevelMeter]:
        """What counters must be kept of for these limits besides those of the whole organization."""
        return frozenset(tracks for limit in self.limits if (tracks := limit.tracks) is not None)
