"""What quota counts about itself."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter

from services.quota.domain.decisions import DenyReason, Outcome

_DECISIONS = Counter("tollbook_quota_decisions_total", "Checks that were decided.", ["decision", "reason"])
REBUILDS = Counter("tollbook_quota_rebuilds_total", "Counters set anew from the ledger.", ["cause"])
OVERRUNS = Counter(
    "tollbook_quota_overruns_total",
    "Reservations that usage went beyond, or came after the end of.",
    ["kind"],
)
AUDITS = Counter("tollbook_quota_audits_total", "Organizations whose counters were audited.", ["outcome"])
DRIFTS = Counter("tollbook_quota_drifts_total", "Counters that an audit found to be wrong, or gone.", ["part"])
EXPIRED = Counter("tollbook_quota_expired_reservations_total", "Reservations that ended by time.")
UNMATCHED = Counter(
    "tollbook_quota_unmatched_reservations_total",
    "Committed reservations whose usage did not come in time.",
)
RESTORED = Counter("tollbook_quota_restored_reservations_total", "Reservations that an extension made anew.")
FOREIGN_DESCRIPTORS = Counter(
    "tollbook_quota_foreign_descriptors_total", "Descriptors of Envoy's that no limit can match: an unknown entry."
)
_DEGRADED = Counter("tollbook_quota_degraded_decisions_total", "Checks that were decided without Redis.", ["decision"])
REGISTERED = Counter("tollbook_quota_registered_grants_total", "Grants given without Redis that it then held.")


def count_decision(outcome: Outcome, reason: DenyReason | None, count: int = 1) -> None:
    """Counts checks that were decided so."""
    _decisions(outcome, reason).inc(count)


def count_degraded(outcome: Outcome) -> None:
    """Counts a check that was decided so without Redis."""
    _degraded(outcome).inc()


@cache
def _degraded(outcome: Outcome) -> Counter:
    return _DEGRADED.labels(outcome.value)


@cache
def _decisions(outcome: Outcome, reason: DenyReason | None) -> Counter:
    # Looking labels up costs more than counting does.
    return _DECISIONS.labels(outcome.value, reason.value if reason else "")
