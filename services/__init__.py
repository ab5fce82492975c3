"""The services: one process, one Postgres schema and one proto package each. None imports another."""
