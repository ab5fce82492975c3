"""What a check is answered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import TypeAlias

from tollbook.quota.v1 import quota_pb2

LimitState: TypeAlias = quota_pb2.LimitState

STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
_PREFIX = "DENY_REASON_"


class OnUnavailable(Enum):
    """What stands for an answer when the suite gives none in time."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether the work may be done."""

    allowed: bool
    in_grace: bool = False
    """Allowed above the limit, within its grace band."""
    reason: str = ""
    """Why not, such as `LIMIT_REACHED`; empty when allowed."""
    message: str = ""
    """Why not, for a person."""
    limits: tuple[LimitState, ...] = ()
    """Every limit that was decided, the one that denied first."""
    reservation_id: str = ""
    """The reservation made; empty: none."""
    retry_after: timedelta | None = None
    degraded: bool = False
    """Answered by a policy, the quota service's or this SDK's, and not by the counters."""

    @property
    def limit(self) -> LimitState | None:
        """The limit that denied; None when allowed, or when no limit did."""
        return self.limits[0] if self.limits and not self.allowed else None

    def left_of(self, meter: str) -> int | None:
        """The least that any limit of the meter leaves; None: no limit, or unlimited."""
        left = [each.remaining for each in self.limits if _binds(each) and each.meter == meter]
        return min(left, default=None)


def _binds(state: LimitState) -> bool:
    return state.HasField("remaining") and not state.shadow


def decision_from_pb(response: quota_pb2.CheckResponse) -> Decision:
    """The decision of an answer."""
    allowed = response.decision in {quota_pb2.DECISION_ALLOWED, quota_pb2.DECISION_ALLOWED_IN_GRACE}
    return Decision(
        allowed=allowed,
        in_grace=response.decision == quota_pb2.DECISION_ALLOWED_IN_GRACE,
        reason="" if allowed else quota_pb2.DenyReason.Name(response.deny_reason).removeprefix(_PREFIX),
        message=response.message,
        limits=tuple(response.limits),
        reservation_id=response.reservation_id,
        retry_after=response.retry_after.ToTimedelta() if response.HasField("retry_after") else None,
        degraded=response.degraded,
    )


def unanswered(policy: OnUnavailable, reservation_id: str) -> Decision:
    """What stands for the answer that did not come. The reservation may have been made, or can be made later."""
    if policy is OnUnavailable.ALLOW:
        return Decision(allowed=True, degraded=True, reservation_id=reservation_id)
    return Decision(
        allowed=False, degraded=True, reason=STORE_UNAVAILABLE, message="The quota service did not answer in time."
    )
