"""Rows to be measured: a person who is signed in, and a team with many instances."""

from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.installation import BenchmarkError
from dumont.client import Client
from dumont.core import Settings, new_id
from dumont.db import Database, DatabaseUrls, psycopg_url
from dumont.identity import build_authenticator

PASSWORD = "a long password for benchmarks"
_WORKSPACE = "INSERT INTO workspace (id, team_id, created_at) SELECT unnest(%s::text[]), %s, now()"
_INSTANCE = """
INSERT INTO instance (id, team_id, workspace_id, created_by, status, provider, label, image, env, disk_gb, gpu_name,
                      num_gpus, gpu_memory_mib, price_hour_nano, rental_id, created_at, started_at)
SELECT i.id, %(team)s, i.workspace, %(user)s, 'running', 'sandbox', 'training-' || i.n,
       'pytorch/pytorch:2.1.0-cuda12.1-cudnn8-runtime', '{}', 100, 'RTX 4090', 1, 24564, 412000000, i.rental,
       now() - i.n * interval '1 minute', now() - i.n * interval '1 minute'
FROM unnest(%(instances)s::text[], %(workspaces)s::text[], %(rentals)s::text[])
     WITH ORDINALITY AS i (id, workspace, rental, n)
"""
_RENTAL = """
INSERT INTO rental (id, team_id, instance_id, operation_id, provider, label, state, offer, provider_machine_id,
                    machine_id, address, host_key, workspace_root, geolocation, country, created_at, rented_at)
SELECT i.rental, %(team)s, i.id, 'op_none', 'sandbox', 'label-' || i.rental, 'rented', '{}', (7000000 + i.n)::text,
       (40000 + i.n)::text, '{"host": "127.0.0.1", "port": 40022, "user": "root"}', 'ssh-ed25519 AAAA', '/workspace',
       'Sao Paulo, BR', 'BR', now(), now()
FROM unnest(%(instances)s::text[], %(rentals)s::text[]) WITH ORDINALITY AS i (id, rental, n)
"""
_SPAN = """
INSERT INTO rental_span (id, team_id, rental_id, kind, rate_hour_nano, from_at)
SELECT s.id, %(team)s, s.rental, 'gpu', 412000000, now() - interval '1 hour'
FROM unnest(%(spans)s::text[], %(rentals)s::text[]) AS s (id, rental)
"""


@dataclass(frozen=True)
class Person:
    """Somebody with an account; `token` is empty where he did not sign in over HTTP."""

    user_id: str
    team_id: str
    token: str = ""


def register(url: str) -> Person:
    """Register somebody over HTTP; he is signed in then."""
    session = Client(url).register(_email(), PASSWORD)
    if session.user_id is None or session.team_id is None:
        raise BenchmarkError("the answer to a registration names no user or no team")
    return Person(session.user_id, session.team_id, session.access_token)


async def make_person(database: Database, secret: bytes, home: Path) -> Person:
    """Register somebody without an API."""
    identity = build_authenticator(secret, Settings(home=home))
    try:
        async with database.begin() as session:
            made = await identity.register_user(session, email=_email(), password=PASSWORD)
        return Person(made.user_id, made.team_id)
    finally:
        identity.close()


def _email() -> str:
    return f"{new_id('usr')[-12:].lower()}@example.com"


def make_instances(urls: DatabaseUrls, person: Person, count: int) -> list[str]:
    """Write running instances, each on a machine that costs something, and return their ids."""
    kinds = {"instances": "ins", "workspaces": "wsp", "rentals": "rnt", "spans": "spn"}
    ids = {name: [new_id(prefix) for _ in range(count)] for name, prefix in kinds.items()}
    values = {**ids, "team": person.team_id, "user": person.user_id}
    with psycopg.connect(psycopg_url(urls.owner)) as connection:
        connection.execute("SELECT set_config('dumont.team_id', %s, true)", [person.team_id])
        connection.execute(_WORKSPACE, [ids["workspaces"], person.team_id])
        for statement in (_INSTANCE, _RENTAL, _SPAN):
            connection.execute(statement, values)
    with psycopg.connect(psycopg_url(urls.owner), autocommit=True) as connection:
        connection.execute("ANALYZE")
    return ids["instances"]
