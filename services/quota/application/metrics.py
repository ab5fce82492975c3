"""What quota counts about itself."""

from __future__ import annotations

from prometheus_client import Counter

DECISIONS = Counter("tollbook_quota_decisions_total", "Checks that were decided.", ["decision", "reason"])
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
