"""From a draft to money: the customer's balance, finalizing, payment attempts, and giving up."""

from tools.stripe_simulator.currencies import CHARGE_MAX, charge_increment, minimum_charge
from tools.stripe_simulator.errors import StripeError, card_declined, not_possible
from tools.stripe_simulator.operations import Call
from tools.stripe_simulator.resources import payment_methods
from tools.stripe_simulator.store import StripeObject

_DAY_SECONDS = 86_400
# When Stripe would try a declined payment again; this simulator only says so.
_RETRY_SECONDS = 3 * _DAY_SECONDS


def apply_balance(total: int, balance: int, *, currency: str) -> tuple[int, int]:
    """The amount to collect, and the customer's balance afterwards (negative: the customer has credit).

    Their sum is always `total + balance`. Credit, a credit invoice, and an amount too small to be charged stay
    on the balance, and then nothing is due.
    """
    owed = total + balance
    if owed < minimum_charge(currency):
        return 0, owed
    return owed, 0


def finalize(call: Call, invoice: StripeObject) -> None:
    """Fixes the draft's amounts, number and customer details, and collects it if it advances by itself.

    With nothing due it is paid at once. A declined automatic payment leaves it open.
    """
    if invoice["status"] != "draft":
        raise not_possible("This invoice is already finalized, you can't re-finalize a non-draft invoice.")
    customer = call.find("customer", invoice["customer"])
    currency = invoice["currency"]
    amount_due, ending_balance = apply_balance(invoice["total"], customer["balance"], currency=currency)
    _check_chargeable(amount_due, currency)
    invoice |= {
        "amount_due": amount_due,
        "amount_remaining": amount_due,
        "automatically_finalizes_at": None,
        "effective_at": call.now,
        "ending_balance": ending_balance,
        "number": invoice["number"] or next_number(call, customer),
        "starting_balance": customer["balance"],
        "status": "open",
        **customer_details(customer),
    }
    invoice["status_transitions"]["finalized_at"] = call.now
    customer["balance"] = ending_balance
    customer["currency"] = customer["currency"] or currency
    call.change(customer)
    call.change(invoice, "invoice.finalized")
    if amount_due == 0:
        invoice["attempted"] = True
        _mark_paid(call, invoice, amount_paid=0)
    else:
        advance(call, invoice)


def advance(call: Call, invoice: StripeObject) -> None:
    """Tries to collect an open invoice that advances by itself and is charged automatically."""
    if not invoice["auto_advance"] or invoice["collection_method"] != "charge_automatically":
        return
    method = _payment_method_of(call, invoice)
    if method is None or payment_methods.charges_fail(method):
        _note_failure(call, invoice)
    else:
        _note_attempt(invoice)
        _mark_paid(call, invoice, amount_paid=invoice["amount_remaining"])


def pay(call: Call, invoice: StripeObject, *, payment_method: str | None, paid_out_of_band: bool) -> None:
    """Pays an open or uncollectible invoice now; raises card_declined, having noted it, when the card says no."""
    if invoice["status"] == "paid":
        raise not_possible("Invoice is already paid")
    if invoice["status"] not in {"open", "uncollectible"}:
        raise not_possible(f"This invoice is {invoice['status']}: only an open or uncollectible one can be paid.")
    if paid_out_of_band:
        invoice["amount_paid_off_stripe"] = invoice["amount_remaining"]
        _mark_paid(call, invoice, amount_paid=invoice["amount_remaining"])
        return
    if payment_method is not None:
        method: StripeObject | None = payment_methods.find_attached(call, payment_method, invoice["customer"])
    else:
        method = _payment_method_of(call, invoice)
    if method is None:
        message = (
            "There is no `default_payment_method` set on this Customer or Invoice. "
            "Please set either prior to submitting payment."
        )
        raise StripeError(message)
    if payment_methods.charges_fail(method):
        _note_failure(call, invoice)
        raise card_declined(keeps_effects=True)
    _note_attempt(invoice)
    _mark_paid(call, invoice, amount_paid=invoice["amount_remaining"])


def void(call: Call, invoice: StripeObject) -> None:
    """Cancels an open or uncollectible invoice, and gives back the balance that it used."""
    _require(invoice, {"open", "uncollectible"}, "void")
    invoice |= {"auto_advance": False, "next_payment_attempt": None, "status": "void"}
    invoice["status_transitions"]["voided_at"] = call.now
    call.change(invoice, "invoice.voided")
    customer = call.store.get(invoice["customer"])
    if customer is not None and not customer.get("deleted"):
        customer["balance"] += invoice["starting_balance"] - invoice["ending_balance"]
        call.change(customer)


def mark_uncollectible(call: Call, invoice: StripeObject) -> None:
    """Writes an open invoice off; it may still be paid or voided."""
    _require(invoice, {"open"}, "mark as uncollectible")
    invoice |= {"auto_advance": False, "next_payment_attempt": None, "status": "uncollectible"}
    invoice["status_transitions"]["marked_uncollectible_at"] = call.now
    call.change(invoice, "invoice.marked_uncollectible")
    _set_delinquent(call, invoice, delinquent=False)


def customer_details(customer: StripeObject) -> StripeObject:
    """What an invoice copies of its customer, until it is finalized."""
    return {
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "customer_shipping": customer["shipping"],
        "customer_tax_exempt": customer["tax_exempt"],
    }


def next_number(call: Call, customer: StripeObject) -> str:
    """The next of Stripe's own numbers for the customer that no invoice has. Does not store the customer."""
    while True:
        number = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}"
        customer["next_invoice_sequence"] += 1
        if call.store.named("invoice", number) is None:
            return number


def _check_chargeable(amount_due: int, currency: str) -> None:
    if amount_due > CHARGE_MAX:
        message = f"Amount must be no more than {CHARGE_MAX}."
        raise not_possible(message, code="amount_too_large", param="amount")
    increment = charge_increment(currency)
    if amount_due % increment:
        raise not_possible(f"Amounts in {currency} must be multiples of {increment}.", param="amount")


def _payment_method_of(call: Call, invoice: StripeObject) -> StripeObject | None:
    if invoice["default_payment_method"] is not None:
        return call.store.get(invoice["default_payment_method"])
    customer = call.store.get(invoice["customer"])
    if customer is None or customer.get("deleted"):
        return None
    default = customer["invoice_settings"]["default_payment_method"]
    return None if default is None else call.store.get(default)


def _mark_paid(call: Call, invoice: StripeObject, *, amount_paid: int) -> None:
    invoice |= {
        "amount_paid": amount_paid,
        "amount_remaining": 0,
        "auto_advance": False,
        "next_payment_attempt": None,
        "status": "paid",
    }
    invoice["status_transitions"]["paid_at"] = call.now
    call.change(invoice, "invoice.paid", "invoice.payment_succeeded")
    _set_delinquent(call, invoice, delinquent=False)


def _note_attempt(invoice: StripeObject) -> None:
    # The count is the retry schedule's: of the attempts made by hand only the first moves it.
    if not invoice["attempted"]:
        invoice["attempt_count"] += 1
    invoice["attempted"] = True


def _note_failure(call: Call, invoice: StripeObject) -> None:
    _note_attempt(invoice)
    if invoice["auto_advance"]:
        invoice["next_payment_attempt"] = call.now + _RETRY_SECONDS
    call.change(invoice, "invoice.payment_failed")
    _set_delinquent(call, invoice, delinquent=True)


def _set_delinquent(call: Call, invoice: StripeObject, *, delinquent: bool) -> None:
    customer = call.store.get(invoice["customer"])
    if customer is not None and not customer.get("deleted"):
        customer["delinquent"] = delinquent
        call.change(customer)


def _require(invoice: StripeObject, statuses: set[str], verb: str) -> None:
    if invoice["status"] not in statuses:
        known = " or ".join(sorted(statuses))
        raise not_possible(f"You can only {verb} {known} invoices. This invoice is {invoice['status']}.")
