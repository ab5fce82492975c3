"""Credit notes: a finalized invoice asks for less, or what was paid is given back."""

from decimal import ROUND_HALF_UP, Decimal

from tools.stripe_simulator import collection, lists, refunding
from tools.stripe_simulator.errors import not_possible, parameter_invalid, parameter_missing
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.store import StripeObject

_REASONS = ("duplicate", "fraudulent", "order_change", "product_unsatisfactory")
_LINE_TYPES = ("custom_line_item", "invoice_line_item")


def create(call: Call) -> StripeObject:
    """POST /v1/credit_notes: of an open invoice first what remains, beyond it (or of a paid one) what was paid.

    What was paid goes back to the customer's balance (`credit_amount`), to the card (`refund_amount`), or was given
    back elsewhere (`out_of_band_amount`); together they have to be just that much.
    """
    params = call.params
    invoice_id = params.text("invoice")
    if not invoice_id:
        raise parameter_missing("invoice")
    invoice = call.find("invoice", invoice_id, param="invoice")
    if invoice["status"] not in {"open", "paid"}:
        message = f"You can only create a credit note for an open or paid invoice. This one is {invoice['status']}."
        raise not_possible(message, param="invoice")
    note = call.begin("credit_note") | _fields(invoice)
    lines = [_read_line(call, group, invoice) for group in params.groups("lines")]
    amount = params.integer("amount")
    _set_total(note, lines, amount)
    parts = {name: params.integer(name) or 0 for name in ("credit_amount", "refund_amount", "out_of_band_amount")}
    note |= {
        "effective_at": params.integer("effective_at") or call.now,
        "memo": params.text("memo") or None,
        "metadata": params.metadata("metadata", {}),
        "reason": params.choice("reason", _REASONS),
    }
    params.choice("email_type", ("credit_note", "none"))
    params.finish()

    _split(call, note, invoice)
    _check_parts(note, parts)
    note["number"] = f"{invoice['number']}-CN-{_count(call, invoice) + 1:02d}"
    note["out_of_band_amount"] = parts["out_of_band_amount"] or None
    if parts["refund_amount"]:
        refund = refunding.refund(
            call, _paid_charge(call, invoice), amount=parts["refund_amount"], reason=None, metadata={}
        )
        note["refunds"] = [{"amount_refunded": refund["amount"], "refund": refund["id"], "type": "refund"}]
    for line in lines:
        call.add(line, owner=note["id"])
    note["lines"] |= {"data": lines[: lists.PAGE_SIZE], "has_more": len(lines) > lists.PAGE_SIZE}
    call.add(note, owner=invoice["id"], event="credit_note.created")
    _apply(call, note, invoice, credit_amount=parts["credit_amount"])
    return note


def _fields(invoice: StripeObject) -> StripeObject:
    return {
        "amount_shipping": 0,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "customer_account": None,
        "customer_balance_transaction": None,
        "discount_amount": 0,
        "discount_amounts": [],
        "invoice": invoice["id"],
        "pdf": "",
        "pretax_credit_amounts": [],
        "refunds": [],
        "shipping_cost": None,
        "status": "issued",
        "total_taxes": [],
        "voided_at": None,
    }


def _read_line(call: Call, group: Params, invoice: StripeObject) -> StripeObject:
    kind = group.choice("type", _LINE_TYPES)
    if kind is None:
        raise parameter_missing(group.name("type"))
    line = call.begin("credit_note_line_item", dated=False) | {
        "description": group.text("description") or None,
        "discount_amount": 0,
        "discount_amounts": [],
        "metadata": group.metadata("metadata", {}),
        "pretax_credit_amounts": [],
        "tax_rates": [],
        "taxes": [],
        "type": kind,
    }
    amount, quantity = group.integer("amount"), group.integer("quantity")
    unit_amount = group.integer("unit_amount")
    exact = group.decimal("unit_amount_decimal") if unit_amount is None else Decimal(unit_amount)
    if kind == "invoice_line_item":
        billed = call.find("line_item", group.required_text("invoice_line_item"), param=group.name("invoice_line_item"))
        if billed["invoice"] != invoice["id"]:
            raise parameter_invalid(group.name("invoice_line_item"), "The line is on another invoice.")
        line["invoice_line_item"] = billed["id"]
        line["description"] = line["description"] or billed["description"]
        if amount is None and quantity is not None:
            exact = Decimal(billed["amount"]) / Decimal(billed["quantity"] or 1)
    if amount is None:
        if exact is None or quantity is None:
            raise parameter_missing(group.name("amount"))
        amount = int((exact * quantity).quantize(Decimal(1), ROUND_HALF_UP))
    return line | {
        "amount": amount,
        "quantity": quantity,
        "unit_amount": unit_amount,
        "unit_amount_decimal": None if exact is None else f"{exact:f}",
    }


def _set_total(note: StripeObject, lines: list[StripeObject], amount: int | None) -> None:
    by_lines = sum(line["amount"] for line in lines)
    if lines and amount not in {None, by_lines}:
        raise parameter_invalid("amount", f"The amount ({amount}) is not that of the lines ({by_lines}).")
    total = by_lines if lines else amount
    if total is None:
        raise parameter_missing("amount")
    if total <= 0:
        raise parameter_invalid("amount", "A credit note credits more than nothing.")
    for name in ("amount", "subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax"):
        note[name] = total
    note["lines"] = {"object": "list", "data": [], "has_more": False, "url": f"/v1/credit_notes/{note['id']}/lines"}
    note["pdf"] = f"https://pay.stripe.com/credit_notes/acct_simulator/test_{note['id']}/pdf"


def _split(call: Call, note: StripeObject, invoice: StripeObject) -> None:
    """What remains to be paid is lowered first. What was credited or refunded before can't be credited again."""
    before = min(note["total"], invoice["amount_remaining"])
    after = note["total"] - before
    credited = invoice["pre_payment_credit_notes_amount"] + invoice["post_payment_credit_notes_amount"]
    left = invoice["total"] - credited - _refunded_beside(call, invoice)
    if note["total"] > left:
        message = f"The credit note's amount ({note['total']}) is greater than what can be credited ({left})."
        raise not_possible(message, param="amount")
    note |= {
        "post_payment_amount": after,
        "pre_payment_amount": before,
        "type": "mixed" if before and after else "post_payment" if after else "pre_payment",
    }


def _refunded_beside(call: Call, invoice: StripeObject) -> int:
    """What was refunded of the invoice's charge without a credit note."""
    payment = collection.payment_of(call, invoice)
    if payment is None or payment["status"] != "paid":
        return 0
    charge = _paid_charge(call, invoice)
    by_notes = sum(
        refund["amount_refunded"]
        for note in call.store.newest_first("credit_note", owner=invoice["id"])
        for refund in note["refunds"]
    )
    return int(charge["amount_refunded"] - by_notes)


def _check_parts(note: StripeObject, parts: dict[str, int]) -> None:
    given = sum(parts.values())
    if given != note["post_payment_amount"]:
        message = (
            f"The sum of credit amount, refund amount and out of band amount ({given}) must equal the credit note "
            f"post-payment amount ({note['post_payment_amount']})."
        )
        raise not_possible(message)


def _paid_charge(call: Call, invoice: StripeObject) -> StripeObject:
    payment = collection.payment_of(call, invoice)
    if payment is None or payment["status"] != "paid":
        raise not_possible("The invoice was not paid by a charge, which could be refunded.", param="refund_amount")
    intent = call.find("payment_intent", payment["payment"]["payment_intent"])
    return call.find("charge", intent["latest_charge"])


def _apply(call: Call, note: StripeObject, invoice: StripeObject, *, credit_amount: int) -> None:
    if credit_amount:
        customer = call.find("customer", invoice["customer"])
        customer["balance"] -= credit_amount
        call.change(customer)
    invoice["post_payment_credit_notes_amount"] += note["post_payment_amount"]
    if note["pre_payment_amount"]:
        collection.lower_amount_due(call, invoice, by=note["pre_payment_amount"])
    else:
        call.change(invoice)


def _count(call: Call, invoice: StripeObject) -> int:
    return sum(1 for _ in call.store.newest_first("credit_note", owner=invoice["id"]))


def retrieve(call: Call) -> StripeObject:
    """GET /v1/credit_notes/{id}."""
    call.params.finish()
    return call.target("credit_note")


def update(call: Call) -> StripeObject:
    """POST /v1/credit_notes/{id}: its memo and its metadata."""
    note = call.target("credit_note")
    if "memo" in call.params:
        note["memo"] = call.params.text("memo") or None
    note["metadata"] = call.params.metadata("metadata", note["metadata"])
    call.params.finish()
    call.change(note)
    return note


def list_all(call: Call) -> StripeObject:
    """GET /v1/credit_notes: of an invoice or of a customer, created in a range."""
    invoice, customer = call.params.text("invoice"), call.params.text("customer")
    created = lists.time_filter(call.params, "created")
    return lists.page(
        call,
        "credit_note",
        url="/v1/credit_notes",
        owner=invoice,
        keep=lambda body: customer in {None, body["customer"]} and created(body["created"]),
    )


def list_lines(call: Call) -> StripeObject:
    """GET /v1/credit_notes/{id}/lines, in their order."""
    note = call.target("credit_note")
    url = note["lines"]["url"]
    return lists.page(call, "credit_note_line_item", url=url, owner=note["id"], oldest_first=True)


def void(call: Call) -> StripeObject:
    """POST /v1/credit_notes/{id}/void: while its invoice is still open, which then asks for it again."""
    note = call.target("credit_note")
    call.params.finish()
    invoice = call.find("invoice", note["invoice"])
    if note["status"] == "void":
        raise not_possible("This credit note is void already.")
    if invoice["status"] != "open":
        raise not_possible("You can only void a credit note of an open invoice.")
    note |= {"status": "void", "voided_at": call.now}
    call.change(note, "credit_note.voided")
    collection.lower_amount_due(call, invoice, by=-note["pre_payment_amount"])
    return note


OPERATIONS = (
    Operation("POST", "/v1/credit_notes", create),
    Operation("GET", "/v1/credit_notes", list_all),
    Operation("GET", "/v1/credit_notes/{id}", retrieve),
    Operation("POST", "/v1/credit_notes/{id}", update),
    Operation("GET", "/v1/credit_notes/{id}/lines", list_lines),
    Operation("POST", "/v1/credit_notes/{id}/void", void),
)
