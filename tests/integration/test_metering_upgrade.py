"""A ledger that was there before a migration is not forgotten by it."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from psycopg import sql

from kit.postgres.embedded import EmbeddedPostgres
from kit.postgres.migrate import migrate

_EVENT = """
    INSERT INTO metering.events (organization_id, sequence, commit_id, receive_time, source, id, event_time,
        event_time_nanos, project_id, team_id, user_id, agent_id, task_id, session_id, measurements, reservation_id,
        reservation_final, reversal_of_source, reversal_of_id)
    VALUES ('acme', %(sequence)s, 'c', now(), 's', %(id)s, now(), 0, '', '', '', '', '', '', %(measurements)s, '',
        false, %(reversal_of)s, %(reversal_of)s)
"""


def test_the_volume_of_what_was_recorded_before_is_found_by_an_owner_who_is_no_superuser(
    postgres: EmbeddedPostgres, migrated: Callable[[str], dict[str, str]]
) -> None:
    roles, name = migrated("metering"), f"older_{uuid4().hex[:8]}"
    passwords = {kind: str(urlsplit(url).password) for kind, url in roles.items()}
    place, identifier = urlsplit(postgres.url)._replace(path=f"/{name}"), sql.Identifier(name)
    owner_url = place._replace(netloc=f"{name}:plain@{place.hostname}:{place.port}").geturl()
    with psycopg.connect(postgres.url, autocommit=True) as superuser:
        superuser.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'plain'").format(identifier))
        for kind in roles:
            role = sql.Identifier(f"tollbook_metering_{kind}")
            superuser.execute(sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(role, identifier))
        superuser.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(identifier, identifier))
        try:
            migrate(owner_url, "metering", passwords, upto="metering_0005")
            with psycopg.connect(place.geturl(), autocommit=True) as inside:
                inside.execute("INSERT INTO metering.ledger_heads VALUES ('acme', 3, 'c'), ('other', 0, '')")
                for sequence, measurements, reversal_of in (
                    (1, '{"agent_minutes": 700, "api_calls": 3}', None),
                    (2, '{"api_calls": 11}', None),
                    (3, '{"api_calls": -11}', "2"),
                ):
                    values = {"sequence": sequence, "id": str(sequence), "measurements": measurements}
                    inside.execute(_EVENT, values | {"reversal_of": reversal_of})
                migrate(owner_url, "metering", passwords)
                volumes = inside.execute("SELECT organization_id, volume FROM metering.ledger_heads").fetchall()
                assert {key: int(volume) for key, volume in volumes} == {"acme": 700, "other": 0}
                forced = inside.execute(
                    "SELECT bool_and(relforcerowsecurity) FROM pg_class"
                    " WHERE oid IN ('metering.ledger_heads'::regclass, 'metering.events'::regclass)"
                ).fetchone()
                assert forced == (True,)
        finally:
            superuser.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))
            superuser.execute(sql.SQL("DROP OWNED BY {}").format(identifier))
            superuser.execute(sql.SQL("DROP ROLE {}").format(identifier))
