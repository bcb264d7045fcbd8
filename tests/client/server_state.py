"""What a call changed on the server: the rows of its databases and the objects of its bucket."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg

from mlflow_platform.local.stack import Endpoints

#: A table of one of the databases, or the bucket.
Place = str
#: A tag of prompts that MLflow sets in a thread of its own, some time after the call.
_LATE = "_mlflow_experiment_ids"
_TABLES = "select tablename from pg_tables where schemaname = 'public' and tablename not like 'alembic%'"


class ServerState:
    """Rows and objects, compared with how they were at the last look."""

    def __init__(self, where: Endpoints) -> None:
        import boto3

        self._databases = [
            psycopg.connect(uri.replace("+psycopg", ""), autocommit=True)
            for uri in (where.database_uri, where.auth_database_uri)
        ]
        self._bucket = where.s3_bucket
        self._s3: Any = boto3.client(
            "s3",
            endpoint_url=where.s3_endpoint,
            aws_access_key_id=where.s3_access_key,
            aws_secret_access_key=where.s3_secret_key,
            region_name="us-east-1",
        )
        self._tables = [[name for (name,) in database.execute(_TABLES)] for database in self._databases]
        self._signatures: dict[Place, tuple[int, int]] = {}
        self._contents: dict[Place, Counter[str]] = {}
        self.changes()

    def changes(self) -> dict[Place, dict[str, list[Any]]]:
        """What is gone and what is new since the last call, as rows of JSON or (key, size, etag)."""
        found = {}
        for place, now in self._looked_at():
            before = self._contents.get(place, Counter())
            gone, new = before - now, now - before
            self._contents[place] = now
            if change := {k: rows for k, v in (("gone", gone), ("new", new)) if (rows := _rows(v))}:
                found[place] = change
        return found

    def _looked_at(self) -> Iterator[tuple[Place, Counter[str]]]:
        for database, tables in zip(self._databases, self._tables, strict=True):
            # A row that was written since has a transaction of its own; one that was deleted is missing.
            look = " union all ".join(
                f"select '{t}', count(*), coalesce(max(xmin::text::bigint), 0) from \"{t}\"" for t in tables
            )
            for table, *signature in database.execute(look).fetchall():  # type: ignore[arg-type]
                place = f"{database.info.dbname}.{table}"
                if self._signatures.get(place) != tuple(signature):
                    self._signatures[place] = tuple(signature)
                    rows = database.execute(f'select to_jsonb(t)::text from "{table}" t')  # type: ignore[arg-type]
                    yield place, Counter(text for (text,) in rows)
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        yield (
            "bucket",
            Counter(
                json.dumps([o["Key"], o["Size"], o["ETag"]])
                for page in pages
                for o in page.get("Contents", ())
            ),
        )


def _rows(counted: Mapping[str, int]) -> list[Any]:
    return [json.loads(text) for text, count in counted.items() for _ in range(count) if _LATE not in text]
