"""The journal: what was quarantined and purged, and which objects are still to go.

It lives in the schema `mlplatform` of the tracking database: in `public` MLflow would take an empty database
for a populated one. Backups leave it out, so that a restored database begins with a new identity.

An entry of `purged` is written in the transaction that deletes the rows, and goes through these states:

    pending  objects may be left below `prefix`
    watched  none was left; looked at again at `next_at`, since an upload may have been under way
    done     looked at for the last time; forgotten after `KEPT_DAYS`
    claimed  a model version has come to name it meanwhile: reported, never deleted
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_platform.adapters.postgres import identity
from mlflow_platform.errors import BadInput, Fatal

if TYPE_CHECKING:
    import psycopg

#: Heads of MLflow's tracking schema that the statements here were written for
#: (mlflow/store/db_migrations/versions).
KNOWN_REVISIONS = {"dc11669786a5": "3.17.2"}
#: When purged prefixes, inputs and traces are looked at again after the purge (docs/retention.md).
CHECKS = (datetime.timedelta(hours=1), datetime.timedelta(hours=24))
#: How long entries that are done stay, in days.
KEPT_DAYS = 30

_SCHEMA = """
create schema if not exists mlplatform;
create table if not exists mlplatform.installation (
  one boolean primary key default true check (one),
  id uuid not null,
  cluster text not null,
  created_at timestamptz not null default now(),
  copied_at timestamptz
);
create table if not exists mlplatform.quarantine (
  kind text not null, id text not null, policy text not null, rule text not null,
  stamp bigint, chosen_at timestamptz not null default now(), kept boolean not null default false,
  primary key (kind, id)
);
create table if not exists mlplatform.purged (
  kind text not null, id text not null, uri text not null default '', experiment_id integer,
  root text, prefix text, policy text not null, purged_at timestamptz not null default now(),
  state text not null default 'pending', checks smallint not null default 0, next_at timestamptz,
  objects bigint not null default 0, bytes bigint not null default 0, problem text, wait_until timestamptz,
  primary key (kind, id, uri)
);
create index if not exists purged_state on mlplatform.purged (state, root, prefix collate "C");
create index if not exists purged_next on mlplatform.purged (next_at) where state = 'watched';
create table if not exists mlplatform.retention_run (
  id bigint generated always as identity primary key,
  started_at timestamptz not null default now(), finished_at timestamptz, outcome text, report jsonb
);
"""


@dataclass(frozen=True)
class Installation:
    """Whose data this is. `copied_at`: when this database was found to be a copy of another one."""

    id: uuid.UUID
    copied_at: datetime.datetime | None


def exists(connection: psycopg.Connection[Any]) -> bool:
    """Whether this database has a journal."""
    row = connection.execute("select to_regclass('mlplatform.purged') is not null").fetchone()
    return row == (True,)


def open_journal(connection: psycopg.Connection[Any]) -> Installation:
    """Make the journal if there is none, and say whose it is.

    A journal that came along with a copied database is not ours: its entries name the original's objects.
    They are dropped, and the copy gets an identity of its own.
    """
    cluster = identity(connection)
    with connection.transaction():
        if not exists(connection):
            connection.execute(_SCHEMA)
        insert = "insert into mlplatform.installation (id, cluster) values (%s, %s) on conflict do nothing"
        connection.execute(insert, (uuid.uuid4(), cluster))
        found = "select id, cluster, copied_at from mlplatform.installation"
        row = connection.execute(found).fetchone()
        if row is None:
            raise Fatal("the journal has no installation id", remedy="please report this as a bug")
        if row[1] == cluster:
            return Installation(row[0], row[2])
        connection.execute("truncate mlplatform.quarantine, mlplatform.purged, mlplatform.retention_run")
        row = connection.execute(
            "update mlplatform.installation set id = %s, cluster = %s, created_at = now(), copied_at = now()"
            " returning id, copied_at",
            (uuid.uuid4(), cluster),
        ).fetchone()
        if row is None:
            raise Fatal("the journal has no installation id", remedy="please report this as a bug")
        return Installation(row[0], row[1])


def check_unchanged(connection: psycopg.Connection[Any], installation: Installation) -> None:
    """First statement of every transaction that writes: the schema is one that is known, the journal is ours.

    The share locks hold off a migration and a restore until the transaction has ended.
    """
    revision = check_revision(connection, lock=True)
    row = connection.execute("select id from mlplatform.installation for share").fetchone()
    if row is None or row[0] != installation.id:
        raise Fatal(
            f"this database has become another one (installation {row[0] if row else 'none'}, "
            f"schema {revision})",
            remedy="somebody restored it meanwhile; run this again",
        )


def check_revision(connection: psycopg.Connection[Any], *, lock: bool = False) -> str:
    """MLflow's schema revision. Raises `BadInput` for one that these statements were not written for."""
    query = f"select version_num from public.alembic_version{' for share' if lock else ''}"
    row = connection.execute(query).fetchone()
    revision = row[0] if row else "none"
    if revision not in KNOWN_REVISIONS:
        raise BadInput(
            f"the tracking database's schema is {revision}, which this version does not know",
            remedy=f"known: {', '.join(f'{r} (MLflow {v})' for r, v in KNOWN_REVISIONS.items())}; "
            "upgrade mlflow-platform, or migrate the database",
        )
    return str(revision)


def hold(
    connection: psycopg.Connection[Any], kind: str, policy: str, rows: Sequence[tuple[str, str, int | None]]
) -> None:
    """Note what is quarantined from now on: (id, rule, stamp)."""
    connection.execute(
        "insert into mlplatform.quarantine (kind, id, policy, rule, stamp)"
        " select %s, q.id, %s, q.rule, q.stamp"
        " from unnest(%s::text[], %s::text[], %s::bigint[]) as q(id, rule, stamp)"
        " on conflict (kind, id) do update set policy = excluded.policy, rule = excluded.rule,"
        " stamp = excluded.stamp, chosen_at = now(), kept = false",
        (kind, policy, [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]),
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """What one purged thing leaves behind: where its objects are. No root: it has none."""

    kind: str
    id: str
    uri: str
    experiment: int | None
    root: str | None
    prefix: str | None


def write(connection: psycopg.Connection[Any], policy: str, entries: Sequence[Entry]) -> None:
    """Journal what the transaction at hand purges; two entries may be the same."""
    connection.execute(
        "insert into mlplatform.purged (kind, id, uri, experiment_id, root, prefix, policy)"
        " select distinct e.*, %s"
        " from unnest(%s::text[], %s::text[], %s::text[], %s::int[], %s::text[], %s::text[])"
        " as e(kind, id, uri, experiment_id, root, prefix)"
        " on conflict (kind, id, uri) do update set root = excluded.root, prefix = excluded.prefix,"
        " state = 'pending', purged_at = now(), checks = 0, next_at = null, wait_until = null,"
        " problem = null",
        (
            policy,
            [e.kind for e in entries],
            [e.id for e in entries],
            [e.uri for e in entries],
            [e.experiment for e in entries],
            [e.root for e in entries],
            [e.prefix for e in entries],
        ),
    )


def forget(connection: psycopg.Connection[Any]) -> None:
    """Drop entries that were done long ago, and notes of what is no longer there."""
    connection.execute(
        "delete from mlplatform.purged where state = 'done'"
        " and purged_at < now() - make_interval(days => %s)",
        (KEPT_DAYS,),
    )
    connection.execute(
        "delete from mlplatform.quarantine q where (kind = 'run' and not exists"
        " (select from public.runs r where r.run_uuid = q.id)) or (kind = 'logged model' and not exists"
        " (select from public.logged_models m where m.model_id = q.id))"
    )
