"""What billing counts of itself; see kit.telemetry for how it is read."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

WEBHOOKS = Counter("tollbook_billing_webhooks_total", "Webhooks by what became of them.", ["outcome"])
"""`stored`, `duplicate`, or the reason of the refusal in lower case, such as `signature_invalid`."""
DRIFT = Counter(
    "tollbook_billing_drift_total",
    "Differences that reconciling found, pending ones left out, by kind: the proto's DriftKind without its prefix.",
    ["kind"],
)
RECONCILED_TIME = Gauge(
    "tollbook_billing_reconciled_time_seconds", "When this process last finished reconciling, since 1970."
)
