"""Redis, the other services, and memory."""
