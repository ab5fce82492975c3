"""Every maximum of analytics, in one place."""

from __future__ import annotations

REQUEST_ID_BYTES_MAX = 128
NAME_BYTES_MAX = 128
"""As long as the ledger lets the name of a provider or model be."""
PRICES_MAX = 10_000
"""One answer of ListPrices and one table in memory hold them all."""
SUMMARY_DAYS_MAX = 3 * 365 + 1
"""Three years, whichever of them is a leap year."""
RATED_AT_ONCE = 2_000
"""Events of the ledger applied in one transaction, at least, while there are so many: four pages of the feed."""
RERATED_CALLS = 2_000
"""One transaction of a re-rating: it keeps new prices and the follower of the organization waiting."""
FALLBACKS_LOGGED_MAX = 10
ZONES_REMEMBERED_MAX = 10_000
