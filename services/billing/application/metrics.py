"""What billing counts of itself; see kit.telemetry for how it is read."""

from __future__ import annotations

from prometheus_client import Counter

WEBHOOKS = Counter("tollbook_billing_webhooks_total", "Webhooks by what became of them.", ["outcome"])
"""`stored`, `duplicate`, or the reason of the refusal in lower case, such as `signature_invalid`."""
