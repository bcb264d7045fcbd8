"""What a database holds, to compare before and after."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from mlflow_platform.server import dump


def content() -> dict[str, list[bytes]]:
    """Table -> its rows as COPY writes them, sorted; of the database that libpq's variables name."""
    streams: dict[str, io.BytesIO] = {}

    @contextmanager
    def writing(name: str) -> Iterator[io.BytesIO]:
        streams[name] = io.BytesIO()
        yield streams[name]

    with psycopg.connect(autocommit=True) as connection, dump.snapshot(connection):
        about = dump.Manifest(created="", mlflow="", postgres="", revisions={})
        written = dump.write(connection, about, writing)
    return {
        t.name: sorted(gzip.decompress(streams[t.stream].getvalue()).splitlines()) for t in written.tables
    }
