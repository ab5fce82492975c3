"""Object ids that look like Stripe's: a prefix that names the kind, then letters and digits."""

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
_LENGTH_SHORT = 14
_LENGTH_LONG = 24

# Stripe's own lengths: the older resources have the short form.
_FORMS = {
    "customer": ("cus", _LENGTH_SHORT),
    "event": ("evt", _LENGTH_LONG),
    "invoice": ("in", _LENGTH_LONG),
    "invoiceitem": ("ii", _LENGTH_LONG),
    "line_item": ("il", _LENGTH_LONG),
    "payment_method": ("pm", _LENGTH_LONG),
    "price": ("price", _LENGTH_LONG),
    "product": ("prod", _LENGTH_SHORT),
    "request": ("req", _LENGTH_SHORT),
}


def new_id(kind: str) -> str:
    """A new random id for this kind of object."""
    prefix, length = _FORMS[kind]
    return f"{prefix}_{''.join(secrets.choice(_ALPHABET) for _ in range(length))}"


def new_invoice_prefix() -> str:
    """Eight characters that begin the invoice numbers which Stripe makes for one customer."""
    return "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(8))
