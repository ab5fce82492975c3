"""From a draft to money: the customer's balance, finalizing, payment attempts, and giving up."""

from tools.stripe_simulator import dunning, payments, subscription_state
from tools.stripe_simulator.currencies import CHARGE_MAX, charge_increment, minimum_charge
from tools.stripe_simulator.errors import StripeError, card_declined, not_possible
from tools.stripe_simulator.operations import Call, Tasks
from tools.stripe_simulator.resources import payment_methods
from tools.stripe_simulator.store import StripeObject

HOUR_SECONDS = 3_600

_FINALIZE, _RETRY, _OVERDUE = "finalize_invoice", "retry_payment", "note_overdue"


def apply_balance(total: int, balance: int, *, currency: str) -> tuple[int, int]:
    """The amount to collect, and the customer's balance afterwards (negative: the customer has credit).

    Their sum is always `total + balance`. Credit, a credit invoice, and an amount too small to be charged stay
    on the balance, and then nothing is due.
    """
    owed = total + balance
    if owed < minimum_charge(currency):
        return 0, owed
    return owed, 0


def plan_finalizing(call: Call, invoice: StripeObject) -> None:
    """A draft that advances by itself is finalized in an hour; one that is held, when somebody does it."""
    due_at = call.now + HOUR_SECONDS if invoice["auto_advance"] else None
    invoice["automatically_finalizes_at"] = due_at
    if due_at is None:
        call.store.unplan(invoice["id"], _FINALIZE)
    else:
        call.plan(invoice, _FINALIZE, due_at=due_at)


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
    page = invoice["id"].removeprefix("in_")
    invoice |= {
        "amount_due": amount_due,
        "amount_remaining": amount_due,
        "automatically_finalizes_at": None,
        "effective_at": invoice["effective_at"] or call.now,
        "ending_balance": ending_balance,
        "hosted_invoice_url": f"https://invoice.stripe.com/i/acct_simulator/test_{page}",
        "invoice_pdf": f"https://pay.stripe.com/invoice/acct_simulator/test_{page}/pdf",
        "number": invoice["number"] or next_number(call, customer),
        "starting_balance": customer["balance"],
        "status": "open",
        **customer_details(customer),
    }
    invoice["status_transitions"]["finalized_at"] = call.now
    customer["balance"] = ending_balance
    customer["currency"] = customer["currency"] or currency
    call.store.unplan(invoice["id"], _FINALIZE)
    call.change(customer)
    call.change(invoice, "invoice.finalized")
    if amount_due == 0:
        invoice["attempted"] = True
        _mark_paid(call, invoice)
        return
    _begin_payment(call, invoice)
    if invoice["due_date"] is not None:
        call.plan(invoice, _OVERDUE, due_at=max(call.now, invoice["due_date"]))
    advance(call, invoice)


def advance(call: Call, invoice: StripeObject) -> None:
    """Tries to collect an open invoice that advances by itself and is charged automatically."""
    if not invoice["auto_advance"] or invoice["collection_method"] != "charge_automatically":
        return
    method = _payment_method_of(call, invoice)
    _count_attempt(invoice)
    if method is not None and _charge(call, invoice, method):
        return
    _note_failure(call, invoice)


def pay(call: Call, invoice: StripeObject, *, payment_method: str | None, paid_out_of_band: bool) -> None:
    """Pays an open or uncollectible invoice now; raises card_declined, having noted it, when the card says no."""
    if invoice["status"] == "paid":
        raise not_possible("Invoice is already paid")
    if invoice["status"] not in {"open", "uncollectible"}:
        raise not_possible(f"This invoice is {invoice['status']}: only an open or uncollectible one can be paid.")
    if paid_out_of_band:
        invoice["amount_paid_off_stripe"] = invoice["amount_remaining"]
        _end_payment(call, invoice, reason="abandoned")
        _mark_paid(call, invoice)
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
    # The count is the retry schedule's: of the attempts made by hand only the first moves it.
    if not invoice["attempted"]:
        _count_attempt(invoice)
    if not _charge(call, invoice, method):
        _note_failure(call, invoice)
        raise card_declined(keeps_effects=True)


def void(call: Call, invoice: StripeObject) -> None:
    """Cancels an open or uncollectible invoice, and gives back the balance that it used."""
    _require(invoice, {"open", "uncollectible"}, "void")
    invoice |= {"auto_advance": False, "next_payment_attempt": None, "status": "void"}
    invoice["status_transitions"]["voided_at"] = call.now
    call.store.unplan(invoice["id"])
    _end_payment(call, invoice, reason="void_invoice")
    call.change(invoice, "invoice.voided")
    customer = call.store.get(invoice["customer"])
    if customer is not None and not customer.get("deleted"):
        customer["balance"] += invoice["starting_balance"] - invoice["ending_balance"]
        call.change(customer)
    subscription_state.invoice_voided(call, invoice)


def mark_uncollectible(call: Call, invoice: StripeObject) -> None:
    """Writes an open invoice off; it may still be paid or voided."""
    _require(invoice, {"open"}, "mark as uncollectible")
    invoice |= {"auto_advance": False, "next_payment_attempt": None, "status": "uncollectible"}
    invoice["status_transitions"]["marked_uncollectible_at"] = call.now
    call.store.unplan(invoice["id"])
    call.change(invoice, "invoice.marked_uncollectible")
    _set_delinquent(call, invoice, delinquent=False)


def lower_amount_due(call: Call, invoice: StripeObject, *, by: int) -> None:
    """An open invoice asks for less (or, with a negative number, for more again); at nothing left it is paid."""
    invoice["amount_due"] -= by
    invoice["amount_remaining"] -= by
    invoice["pre_payment_credit_notes_amount"] += by
    if invoice["amount_remaining"] == 0:
        _end_payment(call, invoice, reason="abandoned")
        _mark_paid(call, invoice)
        return
    payment = payment_of(call, invoice)
    if payment is not None:
        payment["amount_requested"] = invoice["amount_remaining"]
        call.change(payment)
        intent = call.find("payment_intent", payment["payment"]["payment_intent"])
        intent["amount"] = invoice["amount_remaining"]
        call.change(intent)
    call.change(invoice)


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


def payment_of(call: Call, invoice: StripeObject) -> StripeObject | None:
    """The invoice's payment that is not canceled, if it has one."""
    payments_of_invoice = call.store.newest_first("invoice_payment", owner=invoice["id"])
    return next((payment for payment in payments_of_invoice if payment["status"] != "canceled"), None)


def _check_chargeable(amount_due: int, currency: str) -> None:
    if amount_due > CHARGE_MAX:
        message = f"Amount must be no more than {CHARGE_MAX}."
        raise not_possible(message, code="amount_too_large", param="amount")
    increment = charge_increment(currency)
    if amount_due % increment:
        raise not_possible(f"Amounts in {currency} must be multiples of {increment}.", param="amount")


def _payment_method_of(call: Call, invoice: StripeObject) -> StripeObject | None:
    """The invoice's own, else its subscription's, else the customer's default."""
    default = invoice["default_payment_method"] or subscription_state.default_payment_method(call, invoice)
    if default is None:
        customer = call.store.get(invoice["customer"])
        if customer is None or customer.get("deleted"):
            return None
        default = customer["invoice_settings"]["default_payment_method"]
    method = None if default is None else call.store.get(default)
    # One that was detached meanwhile pays nothing any more.
    return None if method is None or method["customer"] != invoice["customer"] else method


def _begin_payment(call: Call, invoice: StripeObject) -> StripeObject:
    """Every finalized invoice with something due has a payment intent, waiting for a payment method."""
    intent = payments.new_intent(
        call,
        amount=invoice["amount_due"],
        currency=invoice["currency"],
        customer=invoice["customer"],
        description=f"Payment for Invoice {invoice['number']}",
    )
    payment = call.begin("invoice_payment") | {
        "amount_paid": None,
        "amount_requested": invoice["amount_due"],
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "payment": {"payment_intent": intent["id"], "type": "payment_intent"},
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }
    call.add(payment, owner=invoice["id"])
    return payment


def _charge(call: Call, invoice: StripeObject, method: StripeObject) -> bool:
    """Charges what remains; answers whether the invoice is paid now."""
    payment = payment_of(call, invoice) or _begin_payment(call, invoice)
    intent = call.find("payment_intent", payment["payment"]["payment_intent"])
    if not payments.charge(call, intent, method):
        return False
    payment |= {"amount_paid": intent["amount"], "status": "paid"}
    payment["status_transitions"]["paid_at"] = call.now
    call.change(payment, "invoice_payment.paid")
    invoice["attempted"] = True
    _mark_paid(call, invoice)
    return True


def _end_payment(call: Call, invoice: StripeObject, *, reason: str) -> None:
    """Nothing is collected any more by the intent that waited."""
    payment = payment_of(call, invoice)
    if payment is None or payment["status"] != "open":
        return
    payment["status"] = "canceled"
    payment["status_transitions"]["canceled_at"] = call.now
    call.change(payment)
    payments.cancel(call, call.find("payment_intent", payment["payment"]["payment_intent"]), reason=reason)


def _mark_paid(call: Call, invoice: StripeObject) -> None:
    invoice |= {
        "amount_paid": invoice["amount_remaining"],
        "amount_remaining": 0,
        "auto_advance": False,
        "next_payment_attempt": None,
        "status": "paid",
    }
    invoice["status_transitions"]["paid_at"] = call.now
    call.store.unplan(invoice["id"])
    call.change(invoice, "invoice.paid", "invoice.payment_succeeded")
    _set_delinquent(call, invoice, delinquent=False)
    subscription_state.invoice_paid(call, invoice)


def _count_attempt(invoice: StripeObject) -> None:
    invoice["attempt_count"] += 1
    invoice["attempted"] = True


def _note_failure(call: Call, invoice: StripeObject) -> None:
    """Plans the next try, or gives up after the last one, as the account's settings say."""
    exhausted = False
    if invoice["auto_advance"] and not subscription_state.awaits_first_payment(call, invoice):
        settings = dunning.in_force(call.store)
        again = dunning.next_attempt(settings, attempt_count=invoice["attempt_count"], now=call.now)
        exhausted = again is None
        invoice["next_payment_attempt"] = again
        invoice["auto_advance"] = not exhausted
        if again is not None:
            call.plan(invoice, _RETRY, due_at=again)
    call.change(invoice, "invoice.payment_failed")
    _set_delinquent(call, invoice, delinquent=True)
    if not exhausted:
        subscription_state.payment_failed(call, invoice)
        return
    settings = dunning.in_force(call.store)
    if settings.then_invoice == "uncollectible":
        mark_uncollectible(call, invoice)
    subscription_state.retries_exhausted(call, invoice, then=settings.then_subscription)


def _set_delinquent(call: Call, invoice: StripeObject, *, delinquent: bool) -> None:
    customer = call.store.get(invoice["customer"])
    if customer is not None and not customer.get("deleted") and customer["delinquent"] != delinquent:
        customer["delinquent"] = delinquent
        call.change(customer)


def _require(invoice: StripeObject, statuses: set[str], verb: str) -> None:
    if invoice["status"] not in statuses:
        known = " or ".join(sorted(statuses))
        raise not_possible(f"You can only {verb} {known} invoices. This invoice is {invoice['status']}.")


def _finalize_now(call: Call, invoice: StripeObject) -> None:
    if invoice["status"] == "draft" and invoice["auto_advance"]:
        finalize(call, invoice)


def _retry_now(call: Call, invoice: StripeObject) -> None:
    if invoice["status"] == "open":
        invoice["next_payment_attempt"] = None
        advance(call, invoice)


def _note_overdue(call: Call, invoice: StripeObject) -> None:
    """The due date of an invoice that was sent has passed."""
    if invoice["status"] == "open":
        call.tell("invoice.overdue", invoice)
        subscription_state.payment_failed(call, invoice)


TASKS: Tasks = {_FINALIZE: _finalize_now, _RETRY: _retry_now, _OVERDUE: _note_overdue}
