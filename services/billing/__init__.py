"""Billing: plans, subscriptions, entitlements, invoices, and their collection by Stripe."""
