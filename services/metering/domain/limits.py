"""Every maximum of metering, in one place."""

from __future__ import annotations

from datetime import timedelta

BATCH_EVENTS_MAX = 5_000
"""One transaction: larger ones hold the organization's head too long."""
EVENT_MEASUREMENTS_MAX = 32
QUANTITY_MAX = 2**53 - 1
"""The largest integer that every party on the way (Lua and JavaScript too) holds exactly."""
EVENT_ID_BYTES_MAX = 256
SOURCE_BYTES_MAX = 128
NAME_BYTES_MAX = 128
LABELS_MAX = 16
LABEL_VALUE_BYTES_MAX = 128
LABEL_KEYS_MAX = 64
"""On the platform's list."""
LATENCY_MAX = timedelta(days=1)
ACCEPTED_BACK = timedelta(days=35)
"""Covers the longest billing period and a few days of outage at the sender."""
ACCEPTED_AHEAD = timedelta(minutes=5)
"""Covers clocks that disagree."""
PAGE_EVENTS = 500
"""Of the feed."""
LISTED_EVENTS = 100
LISTED_EVENTS_MAX = 1_000
"""The largest events that there may be still fit one message."""
PARTITION_DAYS_AHEAD = 28
REQUEST_ID_BYTES_MAX = 128
METERS_MAX = 1_000
"""Every process keeps the catalog in memory."""
UNIT_BYTES_MAX = 64
QUERY_GROUP_BY_MAX = 4
QUERY_FILTERS_MAX = 8
FILTER_VALUES_MAX = 100
QUERY_WINDOWS_MAX = 10_000
"""More than a year of hours."""
QUERY_ROWS_MAX = 10_000
"""With the longest group values still within one message."""
SNAPSHOT_PAIRS_MAX = 64
"""Of level and meter: each level is one statement over what was used in the interval."""
SNAPSHOT_MEMBERS_MAX = 40_000
"""With the longest ids and names still within one message."""
TOTAL_MAX = 2**63 - 1
"""What a total on the wire can hold."""
VOLUME_SHARE = 512
"""One event takes at most such a part of what an organization's totals can still hold: 2^54 at first, which is above
any quantity, and 2^53 once half is taken."""
ROLLUP_SPAN_EVENTS = 20_000
"""Entries rolled up in one transaction: a second's work at most, and no more lost when it is cut off."""
COMMIT_EVENTS_MAX = BATCH_EVENTS_MAX
"""Events of several batches in one transaction; more in one do not make it cheaper."""
COMMIT_BYTES_MAX = 16 * 1024 * 1024
COMMIT_SECONDS_MAX = 40.0
"""Above the 30 seconds after which Postgres itself ends a statement."""
HELD_EVENTS_MAX = 40_000
"""A few seconds of work, so that who waits is answered before giving up."""
HELD_BYTES_MAX = 128 * 1024 * 1024
HELD_EVENTS_OF_ONE_MAX = 10_000
"""Of one organization: its next transaction waits while one is under way, and there is room for the others."""
HELD_BYTES_OF_ONE_MAX = 32 * 1024 * 1024
OVERLOADED_RETRY_SECONDS = 1.0
STREAMS_MAX = 128
STREAMS_OF_ONE_MAX = 32
"""Of one organization: who opens streams and leaves them open does not keep the others out."""
WATCHES_MAX = 1_000
"""Of the ledger's heads, of all followers together."""
STREAM_BATCHES_IN_FLIGHT_MAX = 4
"""Enough that a stream's next batch is decoded while the last is committed."""
TASK_HEARTBEAT_INTERVAL = timedelta(seconds=10)
"""How often a running task is reported; what counts of a longer silence."""
TASK_GAP_MAX = timedelta(seconds=20)
"""Two intervals: one lost or late report is no silence."""
TASK_GATHER_SECONDS = 0.02
"""Nobody waits for a heartbeat: gathered, hundreds a second share some fifty transactions."""
TASK_STRETCHES_MAX = 17
"""Sixteen silences in between: what is remembered of one task has a bound."""
TASK_REMEMBERED = ACCEPTED_BACK + timedelta(days=1)
"""After its last report. Reports of that time are not accepted any more."""
TASKS_FORGOTTEN_MAX = 4
"""Tasks whose memory each new task clears away: faster than they come, without a pause for anybody."""
CLOUDEVENT_DEPTH_MAX = 16
"""Objects and arrays within each other in one event; ours need five."""
READ_AT_ONCE_BYTES_MAX = 256 * 1024
"""Of a message of a foreign format: read within a few hundredths of a second, most of the time."""
CONFIRMATIONS_MAX = 1_000
"""In one call."""
SEAL_SPAN_EVENTS = 100_000
"""Entries sealed in one transaction: a few seconds, well within what a statement may take."""
ARCHIVE_PAGE_EVENTS = 1_000
"""Rows read at once for the archive: their decoding holds up no call for long."""
DETACH_ATTEMPTS_MAX = 24
DETACH_PAUSE_SECONDS = 5.0
"""Whoever comes during an attempt waits up to a quarter of a second: rarely, then."""
