"""Everything that the simulator answers, and everything that it does by itself."""

from tools.stripe_simulator import collection, subscription_cycle
from tools.stripe_simulator.operations import Operation, Tasks
from tools.stripe_simulator.resources import (
    charges,
    credit_notes,
    customers,
    disputes,
    events,
    invoice_items,
    invoice_payments,
    invoices,
    payment_intents,
    payment_methods,
    prices,
    products,
    refunds,
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
    *subscriptions.OPERATIONS,
    *test_clocks.OPERATIONS,
    *events.OPERATIONS,
)

# What is not Stripe's own, and answered by the same rules: a customer's bank, a customer at a page of Stripe's.
CONTROLS: tuple[Operation, ...] = (*disputes.CONTROLS,)

TASKS: Tasks = {**collection.TASKS, **subscription_cycle.TASKS}
