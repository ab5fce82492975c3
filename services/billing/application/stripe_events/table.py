"""Which handler an event's type has. Types that are not here are noted, and have no effect."""

from __future__ import annotations

from collections.abc import Mapping

from services.billing.application.stripe_events.checkout import FinishCheckout
from services.billing.application.stripe_events.customers import LookAtCustomer, UseFirstPaymentMethod
from services.billing.application.stripe_events.disputes import KeepDispute, KeepRefunds
from services.billing.application.stripe_events.drafts import HoldDraft
from services.billing.application.stripe_events.effects import Handler
from services.billing.application.stripe_events.payments import FollowInvoice
from services.billing.application.stripe_events.subscriptions import FollowSubscription


def handlers(
    *,
    follow_invoice: FollowInvoice,
    hold_draft: HoldDraft,
    keep_refunds: KeepRefunds,
    keep_dispute: KeepDispute,
    look_at_customer: LookAtCustomer,
    use_first_payment_method: UseFirstPaymentMethod,
    follow_subscription: FollowSubscription,
    finish_checkout: FinishCheckout,
) -> Mapping[str, Handler]:
    """The table."""
    return {
        "checkout.session.completed": finish_checkout,
        "customer.subscription.created": follow_subscription,
        "customer.subscription.updated": follow_subscription,
        "customer.subscription.deleted": follow_subscription,
        "customer.subscription.paused": follow_subscription,
        "customer.subscription.resumed": follow_subscription,
        "invoice.created": hold_draft,
        "invoice.finalized": follow_invoice,
        "invoice.paid": follow_invoice,
        "invoice.payment_succeeded": follow_invoice,
        "invoice.payment_failed": follow_invoice,
        "invoice.overdue": follow_invoice,
        "invoice.voided": follow_invoice,
        "invoice.marked_uncollectible": follow_invoice,
        "charge.refunded": keep_refunds,
        "charge.refund.updated": keep_refunds,
        "refund.created": keep_refunds,
        "refund.updated": keep_refunds,
        "refund.failed": keep_refunds,
        "charge.dispute.created": keep_dispute,
        "charge.dispute.updated": keep_dispute,
        "charge.dispute.closed": keep_dispute,
        "charge.dispute.funds_withdrawn": keep_dispute,
        "charge.dispute.funds_reinstated": keep_dispute,
        "customer.updated": look_at_customer,
        "customer.deleted": look_at_customer,
        "payment_method.attached": use_first_payment_method,
        "payment_method.updated": use_first_payment_method,
        "payment_method.detached": use_first_payment_method,
    }
