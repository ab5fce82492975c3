"""What an event says besides the object's new state."""

from tools.stripe_simulator.store import StripeObject

# The version whose shapes the objects have, and whose name events carry. Calls may ask for any version from
# the first with these shapes on; before it, invoices had other fields.
API_VERSION = "2026-10-28.endive"
API_VERSION_MIN = "2025-03-31.basil"


def previous_attributes(before: StripeObject, after: StripeObject) -> StripeObject:
    """The old values of what changed: of a nested object only its changed part, of a list all, None for nothing."""
    previous: StripeObject = {}
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            previous[name] = previous_attributes(old, new)
        else:
            previous[name] = old
    return previous
