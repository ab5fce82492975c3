"""Programs for building and developing Tollbook; no service imports them."""
