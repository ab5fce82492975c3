"""Everything that the simulator answers, and everything that it does by itself."""

from tools.stripe_simulator import checkout, collection, subscription_cycle
from tools.stripe_simulator.operations import Operation, Tasks
from tools.stripe_simulator.resources import (
    billing_portal,
    charges,
    checkout_sessions,
    credit_notes,
    customers,
    disputes,
    events,
    invoice_items,
    invoice_payments,
    invoices,
    meter_events,
    meters,
    payment_intents,
    payment_methods,
    prices,
    products,
    refunds,
    setup_intents,
    subscriptions,
    test_clocks,
)

OPERATIONS: tuple[Operation, ...] = (
    *customers.OPERATIONS,
    *payment_methods.OPERATIONS,
    *products.OPERATIONS,
    *prices.OPERATIONS,
    *invoice_items.OPERATIONS,
    *invoices.OPERATIONS,
    *invoice_payments.OPERATIONS,
    *payment_intents.OPERATIONS,
    *charges.OPERATIONS,
    *refunds.OPERATIONS,
    *disputes.OPERATIONS,
    *credit_notes.OPERATIONS,
    *setup_intents.OPERATIONS,
    *subscriptions.OPERATIONS,
    *meters.OPERATIONS,
    *meter_events.OPERATIONS,
    *checkout_sessions.OPERATIONS,
    *billing_portal.OPERATIONS,
    *test_clocks.OPERATIONS,
    *events.OPERATIONS,
)

# What is not Stripe's own, and answered by the same rules: a customer's bank, a customer at a page of Stripe's.
CONTROLS: tuple[Operation, ...] = (*disputes.CONTROLS, *checkout_sessions.CONTROLS, *events.CONTROLS)

TASKS: Tasks = {**collection.TASKS, **subscription_cycle.TASKS, **checkout.TASKS}
