"""Products: what prices are of."""

from tools.stripe_simulator import lists
from tools.stripe_simulator.errors import not_possible
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.store import StripeObject

_TEXTS = ("description", "statement_descriptor", "unit_label", "url")


def create(call: Call) -> StripeObject:
    """POST /v1/products; `id` may be chosen."""
    product = create_from(call, call.params)
    call.params.finish()
    return product


def create_from(call: Call, params: Params) -> StripeObject:
    """Makes a product of these parameters, which may be another call's `product_data`."""
    product = call.begin("product") | {
        "active": True,
        "default_price": None,
        "description": None,
        "images": [],
        "marketing_features": [],
        "metadata": {},
        "name": params.required_text("name"),
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "type": "service",
        "unit_label": None,
        "updated": call.now,
        "url": None,
    }
    product["id"] = params.text("id") or product["id"]
    _read(params, product)
    if call.store.get(product["id"]) is not None:
        raise not_possible("Product already exists.", code="resource_already_exists", param="id")
    call.add(product, event="product.created")
    return product


def name_of(call: Call, identifier: str) -> str:
    """What the product is called."""
    return str(call.find("product", identifier)["name"])


def retrieve(call: Call) -> StripeObject:
    """GET /v1/products/{id}."""
    call.params.finish()
    return call.target("product")


def update(call: Call) -> StripeObject:
    """POST /v1/products/{id}."""
    product = call.target("product")
    if "name" in call.params:
        product["name"] = call.params.required_text("name")
    _read(call.params, product)
    if default_price := call.params.text("default_price"):
        product["default_price"] = call.find("price", default_price, param="default_price")["id"]
    call.params.finish()
    product["updated"] = call.now
    call.change(product)
    return product


def list_all(call: Call) -> StripeObject:
    """GET /v1/products: active or not, with these ids, or created in a range."""
    active = call.params.boolean("active")
    ids = set(call.params.texts("ids"))
    created = lists.time_filter(call.params, "created")
    return lists.page(
        call,
        "product",
        url="/v1/products",
        keep=lambda body: (
            active in {None, body["active"]} and (not ids or body["id"] in ids) and created(body["created"])
        ),
    )


def _read(params: Params, product: StripeObject) -> None:
    for name in _TEXTS:
        if name in params:
            product[name] = params.text(name) or None
    if (active := params.boolean("active")) is not None:
        product["active"] = active
    product["metadata"] = params.metadata("metadata", product["metadata"])


OPERATIONS = (
    Operation("POST", "/v1/products", create),
    Operation("GET", "/v1/products", list_all),
    Operation("GET", "/v1/products/{id}", retrieve),
    Operation("POST", "/v1/products/{id}", update),
)
