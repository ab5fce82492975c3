"""Every maximum of billing, in one place."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

REQUEST_ID_BYTES_MAX = 128
PLANS_MAX = 100
PLAN_METERS_MAX = 64
PLAN_FEATURES_MAX = 100
DISPLAY_NAME_BYTES_MAX = 200
PRICE_MAX = Decimal(1_000_000_000)
"""In the currency's major unit; far above any price, far below what an amount can hold."""
PERCENT_MAX = Decimal(10_000)
"""Of a percentage charge: a hundred times what was counted."""
PRICE_BOOKS_MAX = 20
CHARGES_MAX = 64
"""Of a price book; as many as a plan may have meters."""
TIERS_MAX = 50
TRIAL_DAYS_MAX = 365
QUANTITY_MAX = 2**53 - 1
"""The largest integer that every party on the way (Lua and JavaScript too) holds exactly."""
GRACE_PERCENT_MAX = 100
START_BACK = timedelta(days=35)
"""As far as usage events are accepted back: an earlier start could not be metered."""
CLOSE_AFTER = timedelta(minutes=30)
"""How long a close waits after the end of what it closes: for usage that is on its way."""
ADJUSTED_FOR = timedelta(days=67)
"""How long a period's end lies back in the cuts that look for differences in it: as far as usage is accepted back, and
a longest month more, because what comes after one month's cut is found by the next one's."""
CLOSE_ATTEMPTS_MAX = 5
"""How often a close starts anew because something changed meanwhile."""
CLOSED_AT_ONCE = 4
"""How many organizations one process closes at the same time; one that hangs takes up one place. Half of the
connections to Postgres: calls that come meanwhile have the others."""
USAGE_PERIODS_MAX = 12
"""Of one report; each is a few questions to metering."""
PAGE_INVOICES_MAX = 100
PAGE_INVOICES = 20

SIGNATURE_TOLERANCE = timedelta(minutes=5)
"""How far a webhook's timestamp may be from our clock, before or after; what Stripe recommends."""
WEBHOOK_PAYLOAD_BYTES_MAX = 1024 * 1024
SIGNATURE_BYTES_MAX = 4096
"""A header with a signature for each of a few secrets has a few hundred."""

CLAIM_LEASE = timedelta(minutes=2)
"""How long a worker that claimed a piece of work has it to itself; after that it counts as dead."""
CLAIM_WORK = timedelta(seconds=90)
"""How long it works on one piece; shorter than the lease, so that no two work on the same."""
CLAIMED_AT_ONCE = 10
EXPIRED_AT_ONCE = 100
"""Organizations whose credits one look finds over; each is a job of its own."""
RETRY_FIRST = timedelta(seconds=1)
RETRY_MAX = timedelta(hours=1)
"""Well within the day for which Stripe remembers an idempotency key."""
ERROR_TEXT_MAX = 500
"""What is kept of an error's words."""

TAX_RATES_MAX = 10
"""Of one customer at a time; an invoice has a line for each."""
JURISDICTION_BYTES_MAX = 64
NOTE_BYTES_MAX = 500
COUPON_MONTHS_MAX = 120
REDEMPTIONS_MAX = 20
"""Coupons that one organization may ever redeem: each is looked at by every invoice."""
CREDIT_MINOR_MAX = 10**15
"""Of one grant, in the currency's smallest unit."""
CREDIT_PRIORITY_MAX = 100
CREDIT_PRIORITY = 50
"""Where nothing is said."""
PURCHASE_MINOR_MAX = 50_000_000
"""In the currency's smallest unit: half of what Stripe charges at once, so that there is room for taxes."""
UNPAID_PURCHASES_MAX = 10
"""Of one organization: each has taken a number, and waits for a card."""
PURCHASED_CREDITS_DAYS_MAX = 3650
CREDIT_ENTRIES_PAGE_MAX = 200
CREDIT_ENTRIES_PAGE = 50
CREDIT_NOTE_LINES_MAX = 200
PARTY_TEXT_BYTES_MAX = 200
PARTY_LINES_MAX = 8
MAIL_BYTES_MAX = 254
"""The longest address that SMTP carries."""
TERM_DAYS_MAX = 120
LEGAL_ENTITIES_MAX = 100
CUSTOMER_MADE_BACK = timedelta(hours=1)
"""How long before an invoice its customer at Stripe may have been made by an attempt whose answer was lost."""
STRIPE_LINES_MAX = 250
"""What Stripe takes on one invoice."""
RETURN_URL_BYTES_MAX = 2048
RETURN_HOSTS_MAX = 20
DUNNING_REMINDERS_MAX = 10
DUNNING_DAYS_MAX = 365
PAGE_COUPONS_MAX = 100
PAGE_COUPONS = 20
PAGE_CREDIT_NOTES_MAX = 100
PAGE_CREDIT_NOTES = 20
RECONCILE_BACK = timedelta(days=40)
"""What is over by longer is not compared again; what is open is, however old."""
RECONCILE_USAGE_BACK = timedelta(days=100)
"""The same for usage that is on no invoice: about as long as a ledger keeps its events by default."""
RECONCILE_PENDING = timedelta(hours=2)
"""How young a difference counts as work under way: work is tried again every hour at the latest, ours and Stripe's."""
RECONCILE_INVOICES_MAX = 1_000
"""Of one organization in one comparison; the newest ones."""
REPAIRS_MAX = 1_000
"""Of one call."""
PAGE_REPORTS_MAX = 100
PAGE_REPORTS = 20
LET_GO_AT_ONCE = 1_000
"""Rows that one transaction drops of what is over."""
LET_GO_TRANSACTIONS_MAX = 100
"""Of one run, by kind."""
