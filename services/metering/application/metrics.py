"""What metering counts about itself."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

COMMIT_EVENTS = Histogram(
    "tollbook_metering_commit_events",
    "How many were committed together; kind: events, or task_reports.",
    ["kind"],
    buckets=(1, 10, 100, 500, 1_000, 2_000, 5_000, 10_000),
)
DECIDED_EVENTS = Counter(
    "tollbook_metering_decided_events_total",
    "What became of sound events, once it was committed; status: ACCEPTED, DUPLICATE, CONFLICT, REJECTED.",
    ["status"],
)
HELD_EVENTS = Gauge("tollbook_metering_held_events", "How many wait for their transaction or are in it.", ["kind"])
OVERLOADED_BATCHES = Counter(
    "tollbook_metering_overloaded_batches_total", "Batches refused because too much was held.", ["kind"]
)
FOLLOWER_BEHIND = Gauge(
    "tollbook_metering_follower_behind_entries",
    "Entries that were not handed over to the follower yet, of organizations whose ledgers it reads here.",
    ["follower"],
)
FOLLOWER_WATCHES = Gauge(
    "tollbook_metering_follower_watches", "Watches of heads that the follower has open here.", ["follower"]
)

WEEKS_DUE = Gauge("tollbook_metering_weeks_due", "Weeks of raw events older than the retention that are still there.")
WEEK_HELD_BACK = Gauge(
    "tollbook_metering_week_held_back", "1 while the oldest week that is due is held back for this reason.", ["reason"]
)
WEEKS_DROPPED = Counter("tollbook_metering_weeks_dropped_total", "Weeks of raw events that this process dropped.")
