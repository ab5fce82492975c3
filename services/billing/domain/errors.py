"""What billing refuses."""

from __future__ import annotations

from datetime import timedelta

from kit.errors import Kind, Refused


class InvalidCatalog(Refused):
    """Plan {plan_id!r}: {field}: {problem}"""  # noqa: D400, D415 - the docstring is the message

    reason = "INVALID_CATALOG"


class CurrencyNotOffered(Refused):
    """Plan {plan_id!r} has no prices in {currency_code!r}, but in {offered}."""


class SignatureInvalid(Refused):
    """The webhook's signature does not fit: {problem}."""

    kind = Kind.UNAUTHENTICATED
    reason = "SIGNATURE_INVALID"


class WebhookDisabled(Refused):
    """The webhook is off: no STRIPE_WEBHOOK_SECRET is configured."""

    kind = Kind.FAILED_PRECONDITION
    reason = "WEBHOOK_DISABLED"


class CollectionRefused(Exception):
    """The collector will not take the invoice as it stands, and trying again would not change that.

    Its message is the reason that a person reads on the parked invoice.
    """


class MailRefused(Exception):
    """The mail server will not take the letter, and trying again would not change that. Its message says why."""


class TemplateBroken(Exception):
    """A mail's template cannot be read or filled in. Its message names the file and the place."""


class InvoiceBusy(Refused):
    """The invoice {invoice_id} is being handed to Stripe at this moment; try again in {seconds} s."""

    kind = Kind.UNAVAILABLE
    reason = "DEPENDENCY_UNAVAILABLE"

    def __init__(self, *, invoice_id: str, seconds: float) -> None:
        super().__init__(invoice_id=invoice_id, seconds=seconds)
        self.retry_delay = timedelta(seconds=seconds)


class CustomerGone(CollectionRefused):
    """The customer was deleted at Stripe: another one is made at the next attempt."""
