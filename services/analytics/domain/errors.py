"""What analytics refuses."""

from __future__ import annotations

from kit.errors import InvalidState


class PricesMissing(InvalidState):
    """Provider calls wait to be priced: {missing}. SetPrice adds it."""
