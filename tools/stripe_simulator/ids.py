"""Object ids that look like Stripe's: a prefix that names the kind, then letters and digits."""

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
_LENGTH_SHORT = 14
_LENGTH_LONG = 24
_LENGTH_SESSION = 58

# Stripe's own lengths: the older resources have the short form.
_FORMS = {
    "billing.meter": ("mtr_test", _LENGTH_SHORT),
    "billing.meter_event": ("mtrev", _LENGTH_LONG),
    "billing_portal.configuration": ("bpc", _LENGTH_LONG),
    "billing_portal.session": ("bps", _LENGTH_LONG),
    "charge": ("ch", _LENGTH_LONG),
    "checkout.session": ("cs_test", _LENGTH_SESSION),
    "credit_note": ("cn", _LENGTH_LONG),
    "credit_note_line_item": ("cnli", _LENGTH_LONG),
    "customer": ("cus", _LENGTH_SHORT),
    "dispute": ("du", _LENGTH_LONG),
    "event": ("evt", _LENGTH_LONG),
    "invoice": ("in", _LENGTH_LONG),
    "invoice_payment": ("inpay", _LENGTH_LONG),
    "item": ("li", _LENGTH_LONG),
    "invoiceitem": ("ii", _LENGTH_LONG),
    "line_item": ("il", _LENGTH_LONG),
    "payment_intent": ("pi", _LENGTH_LONG),
    "payment_method": ("pm", _LENGTH_LONG),
    "price": ("price", _LENGTH_LONG),
    "product": ("prod", _LENGTH_SHORT),
    "refund": ("re", _LENGTH_LONG),
    "request": ("req", _LENGTH_SHORT),
    "setup_intent": ("seti", _LENGTH_LONG),
    "subscription": ("sub", _LENGTH_LONG),
    "subscription_item": ("si", _LENGTH_SHORT),
    "test_helpers.test_clock": ("clock", _LENGTH_LONG),
}


def new_id(kind: str) -> str:
    """A new random id for this kind of object."""
    prefix, length = _FORMS[kind]
    return f"{prefix}_{random_text(length)}"


def random_text(length: int) -> str:
    """So many letters and digits that nobody guesses."""
    # One draw for all of them: an invoice makes ten ids on its way, and a choice for each character would cost more
    # than storing them. That some letters come a little more often does no harm.
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in secrets.token_bytes(length))


def new_invoice_prefix() -> str:
    """Eight characters that begin the invoice numbers which Stripe makes for one customer."""
    return "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(8))
