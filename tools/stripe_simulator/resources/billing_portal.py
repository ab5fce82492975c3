"""The billing portal: a page of Stripe's on which a customer manages subscriptions and cards. There is no page here."""

from tools.stripe_simulator import lists
from tools.stripe_simulator.errors import parameter_invalid, parameter_missing
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.store import StripeObject

_CONFIGURATION, _SESSION = "billing_portal.configuration", "billing_portal.session"
_CUSTOMER_UPDATES = ("address", "email", "name", "phone", "shipping", "tax_id")
_SUBSCRIPTION_UPDATES = ("price", "promotion_code", "quantity")
_CANCELLATION_REASONS = (
    "customer_service", "low_quality", "missing_features", "other", "switched_service", "too_complex",
    "too_expensive", "unused",
)  # fmt: skip
_FLOWS = ("payment_method_update", "subscription_cancel")


def create_configuration(call: Call) -> StripeObject:
    """POST /v1/billing_portal/configurations."""
    configuration = _new_configuration(call, is_default=False)
    if "features" not in call.params:
        raise parameter_missing("features")
    _read_configuration(call.params, configuration)
    call.params.finish()
    call.add(configuration, event="billing_portal.configuration.created")
    return configuration


def _new_configuration(call: Call, *, is_default: bool) -> StripeObject:
    return call.begin(_CONFIGURATION) | {
        "active": True,
        "application": None,
        "business_profile": {"headline": None, "privacy_policy_url": None, "terms_of_service_url": None},
        "default_return_url": None,
        "features": {
            "customer_update": {"allowed_updates": [], "enabled": False},
            "invoice_history": {"enabled": True},
            "payment_method_update": {"enabled": True, "payment_method_configuration": None},
            "subscription_cancel": {
                "cancellation_reason": {"enabled": False, "options": list(_CANCELLATION_REASONS)},
                "enabled": True,
                "mode": "at_period_end",
                "proration_behavior": "none",
            },
            "subscription_pause": {"duration": {"interval_options": [], "type": "indefinite"}, "enabled": False},
            "subscription_update": {
                "default_allowed_updates": [],
                "enabled": False,
                "proration_behavior": "none",
                "schedule_at_period_end": {"conditions": []},
                "trial_update_behavior": "end_trial",
            },
        },
        "is_default": is_default,
        "login_page": {"enabled": False, "url": None},
        "metadata": {},
        "name": None,
        "updated": call.now,
    }


def _read_configuration(params: Params, configuration: StripeObject) -> None:
    if (profile := params.group("business_profile")) is not None:
        for name in configuration["business_profile"]:
            if name in profile:
                configuration["business_profile"][name] = profile.text(name) or None
    for name in ("default_return_url", "name"):
        if name in params:
            configuration[name] = params.text(name) or None
    configuration["metadata"] = params.metadata("metadata", configuration["metadata"])
    if (features := params.group("features")) is not None:
        _read_features(features, configuration["features"])


def _read_features(params: Params, features: StripeObject) -> None:
    for name, feature in features.items():
        group = params.group(name)
        if group is None:
            continue
        if (enabled := group.boolean("enabled")) is not None:
            feature["enabled"] = enabled
        if name == "customer_update" and "allowed_updates" in group:
            feature["allowed_updates"] = _some(group, "allowed_updates", _CUSTOMER_UPDATES)
        if name == "subscription_update" and "default_allowed_updates" in group:
            feature["default_allowed_updates"] = _some(group, "default_allowed_updates", _SUBSCRIPTION_UPDATES)
        if name == "subscription_cancel":
            mode = group.choice("mode", ("at_period_end", "immediately"))
            feature["mode"] = mode or feature["mode"]


def _some(group: Params, name: str, choices: tuple[str, ...]) -> list[str]:
    found = group.texts(name)
    for value in found:
        if value not in choices:
            raise parameter_invalid(group.name(name), f"Invalid {name}: must be one of {' or '.join(choices)}")
    return found


def retrieve_configuration(call: Call) -> StripeObject:
    """GET /v1/billing_portal/configurations/{id}."""
    call.params.finish()
    return call.target(_CONFIGURATION)


def update_configuration(call: Call) -> StripeObject:
    """POST /v1/billing_portal/configurations/{id}."""
    configuration = call.target(_CONFIGURATION)
    if (active := call.params.boolean("active")) is not None:
        configuration["active"] = active
    _read_configuration(call.params, configuration)
    call.params.finish()
    configuration["updated"] = call.now
    call.change(configuration)
    return configuration


def list_configurations(call: Call) -> StripeObject:
    """GET /v1/billing_portal/configurations: active or not, the default or not."""
    active, is_default = call.params.boolean("active"), call.params.boolean("is_default")
    return lists.page(
        call,
        _CONFIGURATION,
        url="/v1/billing_portal/configurations",
        keep=lambda body: active in {None, body["active"]} and is_default in {None, body["is_default"]},
    )


def create_session(call: Call) -> StripeObject:
    """POST /v1/billing_portal/sessions, of a customer; the default configuration is made when it is first needed."""
    params = call.params
    customer_id = params.text("customer")
    if not customer_id:
        raise parameter_missing("customer")
    customer = call.find("customer", customer_id, param="customer")
    chosen = params.text("configuration")
    configuration = call.find(_CONFIGURATION, chosen, param="configuration") if chosen else _default(call)
    session = call.begin(_SESSION) | {
        "configuration": configuration["id"],
        "customer": customer["id"],
        "customer_account": None,
        "flow": _read_flow(call, params.group("flow_data")),
        "locale": params.text("locale") or None,
        "on_behalf_of": None,
        "return_url": params.text("return_url") or configuration["default_return_url"],
    }
    params.finish()
    session["url"] = f"https://billing.stripe.com/p/session/test_{session['id']}"
    call.add(session, owner=customer["id"], event="billing_portal.session.created")
    return session


def _default(call: Call) -> StripeObject:
    for configuration in call.store.oldest_first(_CONFIGURATION):
        if configuration["is_default"]:
            return configuration
    configuration = _new_configuration(call, is_default=True)
    call.add(configuration, event="billing_portal.configuration.created")
    return configuration


def _read_flow(call: Call, group: Params | None) -> StripeObject | None:
    if group is None:
        return None
    kind = group.choice("type", _FLOWS)
    if kind is None:
        raise parameter_missing(group.name("type"))
    flow: StripeObject = {
        "after_completion": {"hosted_confirmation": None, "redirect": None, "type": "portal_homepage"},
        "subscription_cancel": None,
        "subscription_update": None,
        "subscription_update_confirm": None,
        "type": kind,
    }
    if kind == "subscription_cancel":
        details = group.group("subscription_cancel")
        if details is None:
            raise parameter_missing(group.name("subscription_cancel"))
        subscription = details.required_text("subscription")
        call.find("subscription", subscription, param=details.name("subscription"))
        flow["subscription_cancel"] = {"retention": None, "subscription": subscription}
    return flow


OPERATIONS = (
    Operation("POST", "/v1/billing_portal/configurations", create_configuration),
    Operation("GET", "/v1/billing_portal/configurations", list_configurations),
    Operation("GET", "/v1/billing_portal/configurations/{id}", retrieve_configuration),
    Operation("POST", "/v1/billing_portal/configurations/{id}", update_configuration),
    Operation("POST", "/v1/billing_portal/sessions", create_session),
)
