"""Databases with MLflow's schemas and some rows in every table that a backup must know of, without a server.

They are copies of a template on one scratch Postgres, so that a test has a platform of its own at once.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import sql

from mlflow_platform.adapters.postgres import Database
from mlflow_platform.backup import keys
from mlflow_platform.local.postgres import ROLE, Postgres
from mlflow_platform.local.scratch import scratch_postgres
from mlflow_platform.server import database, schemas
from mlflow_platform.server.smoke import NAME as SMOKE_TEST

TEMPLATES = {"template_tracking": (schemas.TRACKING,), "template_auth": (schemas.AUTH,)}
TEMPLATES["template_both"] = schemas.SCHEMAS


@dataclass(frozen=True)
class Server:
    """A scratch Postgres with templates."""

    postgres: Postgres

    def database(self, template: str = "") -> Database:
        """A new database: a copy of a template, or an empty one."""
        name = f"test_{secrets.token_hex(6)}"
        source = sql.Identifier(template or "template0")
        with closing(self.postgres.connect("postgres", superuser=True)) as connection:
            connection.autocommit = True
            connection.execute(
                sql.SQL("create database {} owner {} template {} encoding 'UTF8'").format(
                    sql.Identifier(name), sql.Identifier(ROLE), source
                )
            )
        return Database(self.postgres.uri(name))

    def drop(self, where: Database) -> None:
        """What a disaster leaves."""
        name = where.uri.rpartition("/")[2]
        with closing(self.postgres.connect("postgres", superuser=True)) as connection:
            connection.autocommit = True
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@contextlib.contextmanager
def started() -> Iterator[Server]:
    with scratch_postgres() as postgres:
        server = Server(postgres)
        make_templates(server)
        yield server


def make_templates(server: Server) -> None:
    for name, these in TEMPLATES.items():
        made = server.database()
        with opened(made) as connection, database.transaction(connection) as (alchemy, _):
            for schema in these:
                schemas.upgrade(alchemy, schema)
        with closing(server.postgres.connect("postgres", superuser=True)) as connection:
            connection.autocommit = True
            rename = sql.SQL("alter database {} rename to {}")
            old = made.uri.rpartition("/")[2]
            connection.execute(rename.format(sql.Identifier(old), sql.Identifier(name)))


@contextlib.contextmanager
def opened(where: Database) -> Iterator[psycopg.Connection[Any]]:
    with closing(where.connect(autocommit=True)) as connection:
        yield connection


def one(where: Database, query: str, *values: Any) -> Any:
    with opened(where) as connection:
        row = connection.execute(query, values).fetchone()
        return row[0] if row else None


def run(where: Database | None, query: str) -> None:
    assert where is not None
    with opened(where) as connection:
        connection.execute(query)


def digests(where: Database) -> dict[str, tuple[int, str]]:
    """Table -> its number of rows, and a digest of them all."""
    with opened(where) as connection:
        names = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
        found = {}
        for (name,) in sorted(names):
            row = connection.execute(
                f"select count(*), md5(coalesce(string_agg(t::text, '' order by t::text), '')) from {name} t"
            ).fetchone()
            assert row is not None
            found[name] = (row[0], row[1])
        return found


def identifier() -> str:
    return secrets.token_hex(16)


#: What MLflow writes at its first start, and the smoke test of a deployment.
FIRST_START = f"""
insert into experiments (experiment_id, name, lifecycle_stage, workspace)
  values (0, 'Default', 'active', 'default'), (1, '{SMOKE_TEST}', 'active', 'default');
insert into runs (run_uuid, experiment_id, lifecycle_stage, status)
  values ('smoke', 1, 'deleted', 'FINISHED');
"""
ADMIN = "insert into users (username, password_hash, is_admin) values ('admin', 'another', true)"


@dataclass
class Rows:
    """What `populate` made: ids, and artifact keys below the proxied root, and below the direct one."""

    runs: list[str]
    model: str
    trace: str
    proxied: list[str]
    direct: list[str]


def populate(tracking: Database, auth: Database, direct: str, *, kek: str, webhook: str) -> Rows:
    """Two experiments, one of which keeps its artifacts at `direct`; users with a grant on the first."""
    rows = Rows([], f"m-{identifier()}", f"tr-{identifier()}", [], [])
    with opened(tracking) as c:
        values = [("proxied", "mlflow-artifacts:/1"), ("direct", f"{direct}/2")]
        for name, place in values:
            experiment = c.execute(
                "insert into experiments (name, artifact_location, lifecycle_stage, workspace)"
                " values (%s, %s, 'active', 'default') returning experiment_id",
                (name, place),
            ).fetchone()[0]  # type: ignore[index]
            for _ in range(3):
                run = identifier()
                rows.runs.append(run)
                uri = f"{place}/{run}/artifacts"
                c.execute(
                    "insert into runs (run_uuid, name, experiment_id, artifact_uri, lifecycle_stage, status)"
                    " values (%s, 'a', %s, %s, 'active', 'FINISHED')",
                    (run, experiment, uri),
                )
                c.execute("insert into params (run_uuid, key, value) values (%s, 'p', E'a\\tb\\nc')", (run,))
                c.execute(
                    "insert into metrics (run_uuid, key, value, timestamp, step, is_nan)"
                    " select %s, 'm', i / 3.0, i, i, false from generate_series(1, 50) i",
                    (run,),
                )
                keys_ = rows.proxied if name == "proxied" else rows.direct
                keys_.append(uri.removeprefix("mlflow-artifacts:/").removeprefix(f"{direct}/") + "/model.bin")
        c.execute(
            "insert into logged_models (model_id, experiment_id, name, artifact_location,"
            " creation_timestamp_ms, last_updated_timestamp_ms, status, lifecycle_stage)"
            " values (%s, 2, 'm', %s, 1, 1, 1, 'active')",
            (rows.model, f"{direct}/2/models/{rows.model}/artifacts"),
        )
        rows.direct.append(f"2/models/{rows.model}/artifacts/MLmodel")
        c.execute(
            "insert into trace_info (request_id, experiment_id, timestamp_ms, status)"
            " values (%s, 2, 1, 'OK')",
            (rows.trace,),
        )
        c.execute(
            "insert into trace_tags (request_id, key, value) values (%s, 'mlflow.artifactLocation', %s)",
            (rows.trace, f"{direct}/2/traces/{rows.trace}/artifacts"),
        )
        rows.direct.append(f"2/traces/{rows.trace}/artifacts/traces.json")
        c.execute("insert into registered_models (name, workspace) values ('r', 'default')")
        c.execute(
            "insert into model_versions (name, version, workspace, source, storage_location, run_id)"
            " values ('r', 1, 'default', %s, %s, %s)",
            (f"models:/{rows.model}", f"{direct}/2/models/{rows.model}/artifacts", rows.runs[3]),
        )
        c.execute(
            "insert into datasets (dataset_uuid, experiment_id, name, digest, dataset_source_type,"
            " dataset_source) values (%s, 2, 'd', '1', 's3', %s)",
            (identifier(), f'{{"uri": "{direct}/data.parquet"}}'),
        )
        c.execute(
            "insert into jobs (id, creation_time, job_name, params, status, retry_count, last_update_time,"
            " workspace) values ('j', 1, 'f', '{}', 1, 0, 1, 'default')"
        )
        dek, nonce = os.urandom(32), os.urandom(12)
        wrapped = nonce + AESGCM(keys._kek(kek, 1)).encrypt(nonce, dek, None)
        c.execute(
            "insert into secrets (secret_id, secret_name, encrypted_value, wrapped_dek, masked_value,"
            " kek_version, created_at, last_updated_at, workspace)"
            " values ('s', 's', %s, %s, '{}', 1, 1, 1, 'default')",
            (b"x", wrapped),
        )
        c.execute(
            "insert into webhooks (webhook_id, name, url, status, secret, creation_timestamp,"
            " last_updated_timestamp, workspace)"
            " values ('w', 'w', 'https://a', 'ACTIVE', %s, 1, 1, 'default')",
            (Fernet(webhook).encrypt(b"secret").decode(),),
        )
    with opened(auth) as c:
        c.execute("insert into users (username, password_hash, is_admin) values ('admin', 'old', true)")
        c.execute("insert into users (username, password_hash, is_admin) values ('ada', 'hers', false)")
        c.execute("insert into roles (name, workspace) values ('r', 'default')")
        c.execute(
            "insert into role_permissions (role_id, resource_type, resource_pattern, permission)"
            " values (1, 'experiment', '1', 'READ'), (1, 'experiment', '4711', 'EDIT'),"
            " (1, 'experiment', '99999999999', 'EDIT')"
        )
        c.execute("insert into user_role_assignments (user_id, role_id) values (2, 1)")
    return rows


def webhook_key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()
