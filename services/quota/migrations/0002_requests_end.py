"""Requests that are forgotten after a while: nobody sends one again a month later."""

from __future__ import annotations

from alembic import op

revision = "quota_0002"
down_revision = "quota_0001"

TENANT = "tollbook_quota_tenant"


def upgrade() -> None:
    """Lets the tenant's role forget its organization's oldest requests, and find them."""
    op.execute(f"""
        CREATE INDEX requests_by_time ON quota.requests (organization_id, create_time);
        GRANT DELETE ON quota.requests TO {TENANT};
    """)
