"""Invoice items: amounts that wait for an invoice, or stand on one."""

from tools.stripe_simulator import invoice_lines, lists
from tools.stripe_simulator.errors import not_possible, parameter_invalid, parameter_missing
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.store import StripeObject

_DEFAULT_CURRENCY = "usd"


def create(call: Call) -> StripeObject:
    """POST /v1/invoiceitems: with `invoice` a line of that draft at once, else pending for the customer."""
    params = call.params
    customer_id, invoice_id = params.text("customer"), params.text("invoice")
    currency = params.currency()
    invoice = None
    if invoice_id:
        invoice = call.find("invoice", invoice_id, param="invoice")
        if customer_id not in {None, invoice["customer"]}:
            raise parameter_invalid("invoice", "The invoice belongs to another customer.")
        customer_id = invoice["customer"]
        if invoice["status"] != "draft":
            raise not_possible(
                "This invoice is no longer editable: invoice items can only be added to a draft.",
                code="invoice_not_editable",
                param="invoice",
            )
    if not customer_id:
        raise parameter_missing("customer")
    customer = call.find("customer", customer_id, param="customer")
    default_currency = (customer["currency"] or _DEFAULT_CURRENCY) if invoice is None else invoice["currency"]
    item = invoice_lines.new_item(call, params, customer=customer_id, currency=currency or default_currency)
    params.finish()
    if invoice is not None:
        item["invoice"] = invoice["id"]
    call.add(item, owner=customer_id, event="invoiceitem.created")
    if invoice is not None:
        invoice_lines.put_on_invoice(call, [item], invoice)
        invoice_lines.refresh(call, invoice, customer)
        call.change(invoice)
    return item


def retrieve(call: Call) -> StripeObject:
    """GET /v1/invoiceitems/{id}."""
    call.params.finish()
    return call.target("invoiceitem")


def list_all(call: Call) -> StripeObject:
    """GET /v1/invoiceitems: of a customer or an invoice, or those still pending."""
    params = call.params
    customer, invoice = params.text("customer"), params.text("invoice")
    pending = params.boolean("pending")
    created = lists.time_filter(params, "created")
    return lists.page(
        call,
        "invoiceitem",
        url="/v1/invoiceitems",
        owner=customer,
        keep=lambda body: (
            invoice in {None, body["invoice"]} and pending in {None, body["invoice"] is None} and created(body["date"])
        ),
    )


def delete(call: Call) -> StripeObject:
    """DELETE /v1/invoiceitems/{id}: while it is pending, or on a draft, which loses its line."""
    item = call.target("invoiceitem")
    call.params.finish()
    invoice = None
    if item["invoice"] is not None:
        invoice = call.find("invoice", item["invoice"])
        if invoice["status"] != "draft":
            message = "This invoice item is on a finalized invoice and can no longer be deleted."
            raise not_possible(message, code="invoice_not_editable")
        invoice_lines.take_off_invoice(call, item)
    call.store.remove(item["id"])
    call.tell("invoiceitem.deleted", item)
    if invoice is not None:
        invoice_lines.refresh(call, invoice, call.find("customer", invoice["customer"]))
        call.change(invoice)
    return {"id": item["id"], "object": "invoiceitem", "deleted": True}


OPERATIONS = (
    Operation("POST", "/v1/invoiceitems", create),
    Operation("GET", "/v1/invoiceitems", list_all),
    Operation("GET", "/v1/invoiceitems/{id}", retrieve),
    Operation("DELETE", "/v1/invoiceitems/{id}", delete),
)
