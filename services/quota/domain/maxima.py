"""Every maximum of quota, in one place."""

from __future__ import annotations

CONSUMPTIONS_MAX = 16
QUANTITY_MAX = 2**53 - 1
"""The largest integer that every party on the way (Lua and JavaScript too) holds exactly."""
COUNTER_MAX = QUANTITY_MAX
"""Where a counter stays: only what is unlimited gets there, after 285 000 years of one agent's milliseconds."""
REMEMBERED_AFTER_END_US = 3_600_000_000
"""How long a retry of a reservation that ended gets its first answer."""
REMEMBERED_CONSUMPTION_US = 600_000_000
"""How long a retry of a consumption gets its first answer, and is not counted again."""
DESCRIPTORS_MAX = 32
"""Of one request to Envoy's door; a gateway sends a handful."""
CHECKS_AT_ONCE_MAX = 1_000
"""Of a batch, and unanswered of a stream."""
RESERVE_US_MIN = 1_000_000
RESERVE_US_MAX = 24 * 3_600_000_000
RESERVE_US_DEFAULT = 15 * 60_000_000
"""Long enough for most tasks, short enough that a crashed one gives back its hold soon."""
REMEMBERED_TERMS_MAX = 20_000
"""Per process; some 1 kB each."""
OWN_LIMITS_MAX = 200
"""Of one organization. Every process keeps them in memory, and every check looks at them."""
TRACKED_MAX = 32
"""Pairs of level and meter that an organization's own limits may name: each is a counter per member and meter, and
metering totals them all for a rebuild.
"""
TRACKED_IN_PERIOD_MAX = 64
"""With the pairs of limits removed since the period began; above it those are forgotten. As many as metering takes."""
CHECKS_TOGETHER_MAX = 128
"""Checks that one script decides: a script keeps everybody else waiting."""
CHECKS_WINDOW_US = 500
"""How long a check waits for others when a call began just before; it never waits otherwise."""
CHECKS_WINDOW_US_MAX = 10_000
COUNTERS_TOGETHER_MAX = 512
"""Counters that one script looks at for them: some milliseconds of Redis' time. No check has more than 96."""
LIMITS_TOGETHER_MAX = 2_000
"""Limits that one script decides for them, each for every check that it applies to: some 5 ms. No check meets many more
than an organization's own.
"""
CHECK_STREAMS_MAX = 100
"""Per process."""
REMEMBERED_DENIALS_MAX = 10_000
"""Per process; some 2 kB each."""
REPEATED_DENIAL_BYTES_MAX = 4_096
"""Of a request, and of its answer, that are remembered as they were sent: several times what most have, and far less
than a call may send.
"""
DENIAL_REMEMBERED_SECONDS = 0.2
"""For how long a process may answer by a denial that it remembers; who changes a limit waits that long."""
AUDITED_COUNTERS_MAX = 2_000
"""Counters used that one look of an audit reads, some milliseconds of Redis' time; and open reservations of an
organization that it adds up.
"""
AUDITED_HOLDS_MAX = 4_000
"""Counters under which those reservations hold, each for itself: what two of each come to. One look reads them."""
AUDITED_AT_ONCE_MAX = 200
"""Open reservations that one script reads: some milliseconds."""
AUDITED_HOLDS_AT_ONCE_MAX = 1_000
"""Counters under which those hold that one script adds up, or puts right."""
STAGED_AT_ONCE_MAX = 1_000
"""Counters that one command of a rebuild writes; there are up to 40 000."""
LIMIT_ID_BYTES_MAX = 128
REQUEST_ID_BYTES_MAX = 128
REQUESTS_REMEMBERED_DAYS = 30
"""Changes of an organization's own limits that are sent again within so long get their first answer."""
REQUESTS_REMEMBERED_MAX = 10_000
"""Of one organization: the newest. Some 300 bytes each."""
REQUESTS_FORGOTTEN_AT_ONCE_MAX = 100
"""With each change: more than it adds, so that what is too much goes away, and little enough not to be felt."""
GRACE_PERCENT_MAX = 1_000
LISTED_LIMITS = 100
LISTED_LIMITS_MAX = 1_000
SWEPT_AT_ONCE_MAX = 100
"""Reservations that one script frees: a script keeps everybody else waiting."""
TOMBSTONES_MAX = 10_000
"""Reservations of one organization that are not known and yet named by usage: some 200 bytes each, for an hour."""
SETTLE_US = 24 * 3_600_000_000
"""How long what was committed is held for its usage events."""
GRANTS_MAX = 10_000
"""Per process, given while the store was away and not registered yet; some 2 kB each. Above it limits deny."""
GRANTS_AT_ONCE_MAX = 50
"""Registered by one script."""
SEEN_COUNTERS_MAX = 50_000
"""Per process, remembered as last seen; some 300 bytes each. One that was forgotten is as if it was never seen."""
SEEN_RESERVATIONS_MAX = 20_000
"""The same of reservations."""
LISTED_MEMBERS_MAX = 100
"""Of one limit of each member separately."""
LISTED_MEMBERS_IN_ALL_MAX = 1_000
"""Of an organization: what every change of a watched one may cost."""
REMEMBERED_MEMBERS_MAX = 1_000
"""Organizations per process whose most using members are remembered; some 100 kB each at most."""
SCANNED_COUNTERS_MAX = 100_000
"""Looked at to find the members that used most; of more, some are not found."""
WATCHES_MAX = 1_000
"""Per process."""
WATCHES_OF_ONE_MAX = 50
"""Per process and organization."""
