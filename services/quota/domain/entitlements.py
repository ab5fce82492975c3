"""What an organization may use, as of one version."""

from __future__ import annotations

from dataclasses import dataclass

from kit.enums import IdentityEnum
from services.quota.domain.limits import Limit


class Standing(IdentityEnum):
    """Whether the subscription lets its organization use anything."""

    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    NO_PLAN = "NO_PLAN"


@dataclass(frozen=True, slots=True)
class Period:
    """A billing period, half-open, in Unix microseconds."""

    start_us: int
    end_us: int

    def contains(self, moment_us: int) -> bool:
        """Whether a moment is inside."""
        return self.start_us <= moment_us < self.end_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """The plan of an organization, its period and its limits."""

    organization_id: str
    version: int
    """The entry's number in billing's log. A period that begins by time alone does not change it."""
    plan_id: str
    standing: Standing
    period: Period
    limits: tuple[Limit, ...]

    def supersedes(self, other: Entitlement) -> bool:
        """Whether this one replaces the other: a higher version, or a later period of the same version."""
        return (self.version, self.period.start_us) > (other.version, other.period.start_us)
