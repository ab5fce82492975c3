"""Whether a webhook's bytes are Stripe's, by the scheme `v1` of its `Stripe-Signature` header.

Stripe's library decodes the body first, reads the clock itself and admits any time ahead; here the raw bytes are
hashed, time is an argument, and both directions are bounded. Source: https://docs.stripe.com/webhooks#verify-manually
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from kit.clock import unix_microseconds
from services.billing.domain import limits
from services.billing.domain.errors import SignatureInvalid, WebhookDisabled

_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_TOLERANCE_US = limits.SIGNATURE_TOLERANCE // timedelta(microseconds=1)


def verify_signature(payload: bytes, header: str, secrets: Sequence[str], now: datetime) -> None:
    """Returns when one of the header's signatures fits the bytes under one of the secrets, at about this time.

    Raises SignatureInvalid otherwise, and WebhookDisabled when there is no secret.
    """
    if not secrets:
        raise WebhookDisabled
    if not header:
        raise SignatureInvalid(problem="there is none")
    if len(header) > limits.SIGNATURE_BYTES_MAX:
        raise SignatureInvalid(problem="the header is too long")
    pairs = [part.strip().partition("=") for part in header.split(",")]
    timestamps = [value for name, _, value in pairs if name == "t"]
    signatures = [value.encode() for name, _, value in pairs if name == "v1"]
    if len(timestamps) != 1 or not _TIMESTAMP.fullmatch(timestamps[0]) or not signatures:
        raise SignatureInvalid(problem="the header names no time or no v1 signature")
    signed = timestamps[0].encode() + b"." + payload
    expected = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode() for secret in secrets]
    fits = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in signatures]
    if not any(fits):
        raise SignatureInvalid(problem="no signature is made of these bytes with a secret of ours")
    if abs(unix_microseconds(now) - int(timestamps[0]) * 1_000_000) > _TOLERANCE_US:
        raise SignatureInvalid(problem="its time is too far from our clock")
