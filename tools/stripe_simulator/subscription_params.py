"""Reading what calls say about a subscription, besides its items."""

from tools.stripe_simulator import intervals, subscription_cycle
from tools.stripe_simulator.errors import parameter_invalid, parameter_missing
from tools.stripe_simulator.operations import Call
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.resources import payment_methods
from tools.stripe_simulator.store import StripeObject

COLLECTION_METHODS = ("charge_automatically", "send_invoice")
_FEEDBACKS = (
    "customer_service", "low_quality", "missing_features", "other", "switched_service", "too_complex",
    "too_expensive", "unused",
)  # fmt: skip
_MISSING_PAYMENT_METHOD = ("cancel", "create_invoice", "pause")
_PAUSES = ("keep_as_draft", "mark_uncollectible", "void")


def read_shared(call: Call, params: Params, subscription: StripeObject) -> None:
    """Takes over what was sent of the fields that create and update share."""
    if "description" in params:
        subscription["description"] = params.text("description") or None
    if (method := params.choice("collection_method", COLLECTION_METHODS)) is not None:
        subscription["collection_method"] = method
        if method == "charge_automatically":
            subscription["days_until_due"] = None
    if (days := params.integer("days_until_due")) is not None:
        subscription["days_until_due"] = days
    if (subscription["collection_method"] == "send_invoice") != (subscription["days_until_due"] is not None):
        message = "`days_until_due` is needed if collection_method is send_invoice, and only then."
        raise parameter_invalid(params.name("days_until_due"), message)
    if (default := params.text("default_payment_method")) is not None:
        if default:
            payment_methods.find_attached(call, default, subscription["customer"])
        subscription["default_payment_method"] = default or None
    _read_cancellation(params, subscription)
    trial_settings = params.group("trial_settings")
    if trial_settings is not None and (behavior := trial_settings.group("end_behavior")) is not None:
        missing = behavior.choice("missing_payment_method", _MISSING_PAYMENT_METHOD)
        subscription["trial_settings"]["end_behavior"]["missing_payment_method"] = missing or "create_invoice"
    payment_settings = params.group("payment_settings")
    if payment_settings is not None:
        saves = payment_settings.choice("save_default_payment_method", ("off", "on_subscription"))
        subscription["payment_settings"]["save_default_payment_method"] = saves or "off"
    _read_billing_mode(params, subscription)
    read_cancellation_details(params, subscription)
    subscription["metadata"] = params.metadata("metadata", subscription["metadata"])


def _read_cancellation(params: Params, subscription: StripeObject) -> None:
    if (at_period_end := params.boolean("cancel_at_period_end")) is not None:
        subscription |= {"cancel_at": None, "cancel_at_period_end": at_period_end}
    if params.text_is_empty("cancel_at"):
        params.text("cancel_at")
        subscription |= {"cancel_at": None, "cancel_at_period_end": False}
    elif (cancel_at := params.integer("cancel_at")) is not None:
        subscription |= {"cancel_at": cancel_at, "cancel_at_period_end": False}


def _read_billing_mode(params: Params, subscription: StripeObject) -> None:
    # The modes differ in their prorations, and there are none.
    if (mode := params.group("billing_mode")) is not None:
        kind = mode.choice("type", ("classic", "flexible")) or "classic"
        flexible = None if kind == "classic" else {"proration_discounts": "included"}
        subscription["billing_mode"] = {"flexible": flexible, "type": kind}


def read_cancellation_details(params: Params, subscription: StripeObject) -> None:
    """Takes over what the customer says about leaving."""
    if (details := params.group("cancellation_details")) is not None:
        if "comment" in details:
            subscription["cancellation_details"]["comment"] = details.text("comment") or None
        if "feedback" in details:
            subscription["cancellation_details"]["feedback"] = details.choice("feedback", _FEEDBACKS)


def read_pause(params: Params, subscription: StripeObject) -> None:
    """Takes over whether, how and how long collection is paused; an empty value ends the pause."""
    if params.text_is_empty("pause_collection"):
        params.text("pause_collection")
        subscription["pause_collection"] = None
    elif (pause := params.group("pause_collection")) is not None:
        behavior = pause.choice("behavior", _PAUSES)
        if behavior is None:
            raise parameter_missing(pause.name("behavior"))
        subscription["pause_collection"] = {"behavior": behavior, "resumes_at": pause.integer("resumes_at")}


def read_proration(params: Params) -> str | None:
    """How a change is prorated, as it was sent."""
    return params.choice("proration_behavior", ("always_invoice", "create_prorations", "none"))


def read_trial(call: Call, params: Params, *, ends_now: bool = False) -> int | None:
    """When a trial ends; None where there is none. `now` is a time only where a trial is under way."""
    days = params.integer("trial_period_days")
    text = params.text("trial_end")
    if days is not None and text is not None:
        message = "You may only specify one of these parameters: trial_end, trial_period_days."
        raise parameter_invalid(params.name("trial_end"), message, code="parameters_exclusive")
    if days is not None:
        return intervals.later_by_days(call.now, days) if days > 0 else None
    if text is None:
        return None
    if text == "now":
        return call.now if ends_now else None
    if not text.isdecimal() or int(text) <= call.now:
        raise parameter_invalid(
            params.name("trial_end"), "Invalid timestamp: must be an integer Unix time in the future"
        )
    return int(text)


def set_cancellation(call: Call, subscription: StripeObject) -> None:
    """`cancel_at` says when a subscription that is to end does; asking for it is when it was canceled."""
    if subscription["cancel_at_period_end"]:
        subscription["cancel_at"] = subscription_cycle.period(subscription)[1]
    asked = subscription["cancel_at"] is not None
    subscription["canceled_at"] = (subscription["canceled_at"] or call.now) if asked else None
    subscription["cancellation_details"]["reason"] = "cancellation_requested" if asked else None
