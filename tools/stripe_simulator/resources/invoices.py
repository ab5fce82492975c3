"""Invoices: drafts that take lines, then open, paid, uncollectible or void."""

from tools.stripe_simulator import collection, invoice_drafts, invoice_lines, lists, subscription_state
from tools.stripe_simulator.errors import not_possible, parameter_invalid, parameter_missing
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.resources import payment_methods
from tools.stripe_simulator.store import StripeObject

_DEFAULT_CURRENCY = "usd"
_COLLECTION_METHODS = ("charge_automatically", "send_invoice")
_STATUSES = ("draft", "open", "paid", "uncollectible", "void")
_DAY_SECONDS = 86_400

_TEXTS_OF_DRAFTS = ("description", "footer", "statement_descriptor")
_OF_DRAFTS_ONLY = (
    *_TEXTS_OF_DRAFTS, "collection_method", "custom_fields", "days_until_due", "due_date", "effective_at", "number",
)  # fmt: skip
_CUSTOM_FIELDS_MAX = 4


def create(call: Call) -> StripeObject:
    """POST /v1/invoices: an empty draft, or one with the customer's pending items."""
    params = call.params
    customer_id = params.text("customer")
    if not customer_id:
        raise parameter_missing("customer")
    customer = call.find("customer", customer_id, param="customer")
    invoice = call.begin("invoice") | invoice_drafts.empty(call, customer)
    invoice["currency"] = params.currency() or customer["currency"] or _DEFAULT_CURRENCY
    if subscription_id := params.text("subscription"):
        _bill_for(call, invoice, subscription_id)
    pending = params.choice("pending_invoice_items_behavior", ("exclude", "include"))
    _read(call, invoice)
    params.finish()
    _check_due_date(invoice)
    call.store.insert(invoice, owner=customer_id)
    if pending == "include":
        items = list(call.store.newest_first("invoiceitem", owner=customer_id))
        waiting = [item for item in items if item["invoice"] is None and item["currency"] == invoice["currency"]]
        invoice_lines.put_on_invoice(call, waiting[: invoice_lines.LINES_MAX], invoice)
    invoice_lines.refresh(call, invoice, customer)
    call.store.replace(invoice)
    call.tell("invoice.created", invoice)
    return invoice


def _bill_for(call: Call, invoice: StripeObject, identifier: str) -> None:
    """Makes it an invoice of the subscription's, which takes nothing of what recurs."""
    subscription = call.find("subscription", identifier, param="subscription")
    if subscription["customer"] != invoice["customer"]:
        raise parameter_invalid("subscription", "The subscription is another customer's.")
    invoice["parent"] = invoice_drafts.parent_of(subscription)
    invoice["currency"] = subscription["currency"]


def retrieve(call: Call) -> StripeObject:
    """GET /v1/invoices/{id}."""
    call.params.finish()
    return call.target("invoice")


def update(call: Call) -> StripeObject:
    """POST /v1/invoices/{id}: all of a draft; of a finalized one metadata, payment method and advance."""
    invoice = call.target("invoice")
    if invoice["status"] != "draft":
        for name in _OF_DRAFTS_ONLY:
            if name in call.params:
                message = f"Finalized invoices can't be updated in this way: {name}"
                raise not_possible(message, code="invoice_not_editable", param=name)
    _read(call, invoice)
    call.params.finish()
    _check_due_date(invoice)
    call.change(invoice)
    if invoice["status"] == "open" and not invoice["attempted"]:
        collection.advance(call, invoice)
    return invoice


def list_all(call: Call) -> StripeObject:
    """GET /v1/invoices: of a customer or a subscription, in a status, of a method, created or due in a range."""
    params = call.params
    customer, subscription = params.text("customer"), params.text("subscription")
    status = params.choice("status", _STATUSES)
    collection_method = params.choice("collection_method", _COLLECTION_METHODS)
    created, due = lists.time_filter(params, "created"), lists.time_filter(params, "due_date")
    return lists.page(
        call,
        "invoice",
        url="/v1/invoices",
        owner=customer,
        keep=lambda body: (
            status in {None, body["status"]}
            and subscription in {None, subscription_state.subscription_id(body)}
            and collection_method in {None, body["collection_method"]}
            and created(body["created"])
            and due(body["due_date"])
        ),
    )


def delete(call: Call) -> StripeObject:
    """DELETE /v1/invoices/{id}: a draft, with the items on it."""
    invoice = call.target("invoice")
    call.params.finish()
    if invoice["status"] != "draft":
        raise not_possible("You can only delete draft invoices.", code="invoice_not_editable")
    for line in list(call.store.oldest_first("line_item", owner=invoice["id"])):
        if (item := invoice_lines.item_of(line)) is not None:
            call.store.remove(item)
        call.store.remove(line["id"])
    call.store.unplan(invoice["id"])
    call.store.remove(invoice["id"])
    call.tell("invoice.deleted", invoice)
    return {"id": invoice["id"], "object": "invoice", "deleted": True}


def add_lines(call: Call) -> StripeObject:
    """POST /v1/invoices/{id}/add_lines: new lines, or (by `invoice_item`) pending items, all or none."""
    invoice, customer = _editable(call)
    groups = call.params.groups("lines")
    if not groups:
        raise parameter_missing("lines")
    items = [_item_of(call, group, invoice) for group in groups]
    invoice["metadata"] = call.params.metadata("invoice_metadata", invoice["metadata"])
    call.params.finish()
    invoice_lines.put_on_invoice(call, items, invoice)
    invoice_lines.refresh(call, invoice, customer)
    call.change(invoice)
    return invoice


def _item_of(call: Call, group: Params, invoice: StripeObject) -> StripeObject:
    """The pending item that the group names, or a new one, told of as any other."""
    existing = group.text("invoice_item")
    if existing is not None:
        item = call.find("invoiceitem", existing, param=group.name("invoice_item"))
        if item["invoice"] is not None or item["customer"] != invoice["customer"]:
            message = f"The invoice item {existing} is on an invoice already, or another customer's."
            raise parameter_invalid(group.name("invoice_item"), message)
        return item
    item = invoice_lines.new_item(call, group, customer=invoice["customer"], currency=invoice["currency"])
    item["invoice"] = invoice["id"]
    call.add(item, owner=invoice["customer"], event="invoiceitem.created")
    return item


def remove_lines(call: Call) -> StripeObject:
    """POST /v1/invoices/{id}/remove_lines: each line's item is deleted, or unassigned and pending again."""
    invoice, customer = _editable(call)
    groups = call.params.groups("lines")
    if not groups:
        raise parameter_missing("lines")
    for group in groups:
        line_id = group.required_text("id")
        behavior = group.choice("behavior", ("delete", "unassign"))
        if behavior is None:
            raise parameter_missing(group.name("behavior"))
        line = call.find("line_item", line_id, param=group.name("id"))
        if line["invoice"] != invoice["id"]:
            raise parameter_invalid(group.name("id"), f"The line {line_id} is on another invoice.")
        _remove_line(call, line, behavior, param=group.name("behavior"))
    invoice["metadata"] = call.params.metadata("invoice_metadata", invoice["metadata"])
    call.params.finish()
    invoice_lines.refresh(call, invoice, customer)
    call.change(invoice)
    return invoice


def _remove_line(call: Call, line: StripeObject, behavior: str, *, param: str) -> None:
    call.store.remove(line["id"])
    item_id = invoice_lines.item_of(line)
    if item_id is None:
        if behavior != "delete":
            raise parameter_invalid(param, "A subscription's line stands for no invoice item that could wait.")
        return
    item = call.find("invoiceitem", item_id)
    if behavior == "delete":
        call.store.remove(item["id"])
        call.tell("invoiceitem.deleted", item)
    else:
        call.store.replace(item | {"invoice": None})


def list_lines(call: Call) -> StripeObject:
    """GET /v1/invoices/{id}/lines, in the order in which they stand on the invoice."""
    invoice = call.target("invoice")
    url = invoice["lines"]["url"]
    return lists.page(call, "line_item", url=url, owner=invoice["id"], oldest_first=True)


def finalize(call: Call) -> StripeObject:
    """POST /v1/invoices/{id}/finalize: from now on its amounts stand; `auto_advance` may be set on the way."""
    invoice = call.target("invoice")
    auto_advance = call.params.boolean("auto_advance")
    call.params.finish()
    if auto_advance is not None:
        invoice["auto_advance"] = auto_advance
    collection.finalize(call, invoice)
    return invoice


def pay(call: Call) -> StripeObject:
    """POST /v1/invoices/{id}/pay: now, with the default or a given payment method, or paid elsewhere."""
    invoice = call.target("invoice")
    payment_method = call.params.text("payment_method")
    paid_out_of_band = call.params.boolean("paid_out_of_band") or False
    # Who initiates a payment and what may be forgiven makes no difference to a test card.
    call.params.boolean("off_session")
    call.params.boolean("forgive")
    call.params.finish()
    collection.pay(call, invoice, payment_method=payment_method, paid_out_of_band=paid_out_of_band)
    return invoice


def void(call: Call) -> StripeObject:
    """POST /v1/invoices/{id}/void."""
    invoice = call.target("invoice")
    call.params.finish()
    collection.void(call, invoice)
    return invoice


def send(call: Call) -> StripeObject:
    """POST /v1/invoices/{id}/send: finalizes a draft; nobody gets a mail."""
    invoice = call.target("invoice")
    call.params.finish()
    if invoice["collection_method"] != "send_invoice":
        raise not_possible("You can only manually send an invoice if its collection method is 'send_invoice'.")
    if invoice["status"] == "draft":
        collection.finalize(call, invoice)
    call.tell("invoice.sent", invoice)
    return invoice


def mark_uncollectible(call: Call) -> StripeObject:
    """POST /v1/invoices/{id}/mark_uncollectible."""
    invoice = call.target("invoice")
    call.params.finish()
    collection.mark_uncollectible(call, invoice)
    return invoice


def _editable(call: Call) -> tuple[StripeObject, StripeObject]:
    """The draft that the URL names, and its customer."""
    invoice = call.target("invoice")
    if invoice["status"] != "draft":
        message = "The lines of a finalized invoice can't be changed."
        raise not_possible(message, code="invoice_not_editable")
    return invoice, call.find("customer", invoice["customer"])


def _read(call: Call, invoice: StripeObject) -> None:
    """Takes over what was sent of the fields that create and update share."""
    params = call.params
    for name in _TEXTS_OF_DRAFTS:
        if name in params:
            invoice[name] = params.text(name) or None
    _read_collection(params, invoice)
    _read_custom_fields(params, invoice)
    if "number" in params:
        invoice["number"] = params.text("number") or None
        _check_number(call, invoice)
    if (default := params.text("default_payment_method")) is not None:
        if default:
            payment_methods.find_attached(call, default, invoice["customer"])
        invoice["default_payment_method"] = default or None
    if (auto_advance := params.boolean("auto_advance")) is not None:
        invoice["auto_advance"] = auto_advance
        if invoice["status"] == "draft":
            collection.plan_finalizing(call, invoice)
    invoice["metadata"] = params.metadata("metadata", invoice["metadata"])


def _read_custom_fields(params: Params, invoice: StripeObject) -> None:
    if "custom_fields" in params:
        groups = params.groups("custom_fields")
        if len(groups) > _CUSTOM_FIELDS_MAX:
            raise parameter_invalid("custom_fields", f"An invoice has up to {_CUSTOM_FIELDS_MAX} custom fields.")
        fields = [{"name": group.required_text("name"), "value": group.required_text("value")} for group in groups]
        invoice["custom_fields"] = fields or None


def _read_collection(params: Params, invoice: StripeObject) -> None:
    if (method := params.choice("collection_method", _COLLECTION_METHODS)) is not None:
        invoice["collection_method"] = method
    if (days := params.integer("days_until_due")) is not None:
        invoice["due_date"] = invoice["created"] + days * _DAY_SECONDS
    if (due_date := params.integer("due_date")) is not None:
        invoice["due_date"] = due_date
    if (effective_at := params.integer("effective_at")) is not None:
        invoice["effective_at"] = effective_at


def _check_due_date(invoice: StripeObject) -> None:
    sent = invoice["collection_method"] == "send_invoice"
    if sent and invoice["due_date"] is None:
        message = "If invoices are sent, either due_date or days_until_due must be set."
        raise parameter_invalid("days_until_due", message)
    if not sent and invoice["due_date"] is not None:
        message = "due_date and days_until_due can only be set if collection_method is send_invoice."
        raise parameter_invalid("days_until_due", message)


def _check_number(call: Call, invoice: StripeObject) -> None:
    number = invoice["number"]
    if number is None:
        return
    other = call.store.named("invoice", number)
    if other is not None and other["id"] != invoice["id"]:
        raise not_possible(f"The number {number} is already used by {other['id']}.", param="number")


OPERATIONS = (
    Operation("POST", "/v1/invoices", create),
    Operation("GET", "/v1/invoices", list_all),
    Operation("GET", "/v1/invoices/{id}", retrieve),
    Operation("POST", "/v1/invoices/{id}", update),
    Operation("DELETE", "/v1/invoices/{id}", delete),
    Operation("GET", "/v1/invoices/{id}/lines", list_lines),
    Operation("POST", "/v1/invoices/{id}/add_lines", add_lines),
    Operation("POST", "/v1/invoices/{id}/remove_lines", remove_lines),
    Operation("POST", "/v1/invoices/{id}/finalize", finalize),
    Operation("POST", "/v1/invoices/{id}/pay", pay),
    Operation("POST", "/v1/invoices/{id}/send", send),
    Operation("POST", "/v1/invoices/{id}/void", void),
    Operation("POST", "/v1/invoices/{id}/mark_uncollectible", mark_uncollectible),
)
