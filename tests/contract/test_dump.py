"""Dumps of real databases in a real store: complete, of one moment, checked, and brought back."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import psycopg
import pytest

from mlflow_platform.errors import BadInput, Fatal, Rejected, Transient
from mlflow_platform.server import dump, dumps, migrate, object_store, restore, schemas
from tests.contract.conftest import OLD, Database
from tests.contract.rows import content
from tests.contract.test_migrate import revisions, schema_of

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def ours(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Without the indexes that the platform adds."""
    return [row for row in rows if not row[2].startswith("mlplatform_")]


def made() -> str:
    """Dump the database; the dump's name."""
    with psycopg.connect(autocommit=True) as connection:
        assert dumps.make(connection, schemas.current(connection))
    return dumps.finished(dumps.place())[-1]


def test_what_a_migration_changed_comes_back_whole(
    old_database: None, dumps_place: str, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    before, schema, revision = content(), schema_of(), revisions()
    with psycopg.connect(autocommit=True) as connection:
        counters = [tuple(vars(c).values()) for c in dump._counters(connection, dump.tables(connection))]
    assert migrate.main(["run"]) == 0
    assert revisions() == schemas.needed()
    (name,) = dumps.finished(dumps.place())
    assert name.endswith(f"-{revision['tracking']}")
    assert migrate.main(["dumps"]) == 0
    assert f"{name}  MLflow's revisions" in capsys.readouterr().out

    assert migrate.main(["restore", name]) == 1
    assert "the database is not empty: it has" in capsys.readouterr().err
    with psycopg.connect():
        assert migrate.main(["restore", name, "--replace"]) == 1
    assert "1 other connections use the database" in capsys.readouterr().err
    assert revisions() == schemas.needed()

    assert migrate.main(["restore", name, "--replace"]) == 0
    assert (content(), ours(schema_of()), revisions()) == (before, ours(schema), revision)
    with psycopg.connect(autocommit=True) as connection:
        found = dump._counters(connection, dump.tables(connection))
        assert [tuple(vars(c).values()) for c in found] == counters
        (aside,) = connection.execute(
            "select nspname from pg_namespace where nspname like 'mlplatform_replaced_%'"
        ).fetchall()
        assert connection.execute(f"select version_num from {aside[0]}.alembic_version").fetchall() == [
            (schemas.needed()["tracking"],)
        ]
    assert migrate.main(["run"]) == 0  # and from there it goes on
    assert revisions() == schemas.needed()

    database()
    assert migrate.main(["restore", name]) == 0
    assert content() == before


def test_a_dump_is_of_one_moment(old_database: None, dumps_place: str) -> None:
    before = content()
    folder = dumps.place()

    def write_more(table: dump.Table) -> None:
        """When the first table is written, into one that comes later."""
        if table.name == "alembic_version":
            with psycopg.connect() as other:
                other.execute("insert into users (username, password_hash) values ('late', 'x')")

    with psycopg.connect(autocommit=True) as connection, dump.snapshot(connection) as exported:
        about = dump.Manifest(created="", mlflow=OLD, postgres="", revisions={})
        done = dump.write(connection, about, folder.writing, write_more)
        with psycopg.connect(autocommit=True) as second, dump.snapshot(second, exported):
            assert second.execute("select count(*) from users").fetchone() == (len(before["users"]),)
    assert {t.name: t.rows for t in done.tables} == {t: len(rows) for t, rows in before.items()}
    assert "late" in b"".join(content()["users"]).decode()


def test_a_damaged_dump_changes_nothing(old_database: None, dumps_place: str) -> None:
    before, schema = content(), schema_of()
    name = made()
    folder = dumps.place()
    stream = f"{name}/tables/metrics.copy.gz"
    with folder.reading(stream) as source:
        packed = source.read()
    rows = gzip.decompress(packed)
    damages = {
        "is not what was written": gzip.compress(rows.replace(b"0.1", b"0.2")),
        "is not what was written: 14 rows": gzip.compress(b"".join(rows.splitlines(True)[:14])),
        "is damaged": packed[: len(packed) // 2],
    }
    for words, content_now in damages.items():
        with folder.writing(stream) as out:
            out.write(content_now)
        with pytest.raises(Fatal, match=f"metrics.copy.gz {words}"):
            restore.restore(name, replace=True)
        assert (content(), schema_of()) == (before, schema)
    folder.delete([stream])
    with pytest.raises(Rejected, match="NoSuchKey"):
        restore.restore(name, replace=True)
    assert (content(), schema_of()) == (before, schema)


def test_names_of_dumps_that_are_not_there(old_database: None, dumps_place: str) -> None:
    name = made()
    with pytest.raises(BadInput, match="there is no dump 2020 in ") as caught:
        restore.restore("2020", replace=True)
    assert name in str(caught.value)
    with dumps.place().writing("other/manifest.json") as out:
        out.write(json.dumps({"format": 99}).encode())
    with pytest.raises(BadInput, match="another version"):
        restore.restore("other", replace=True)


def test_without_a_place_to_write_it_nothing_is_migrated(
    old_database: None,
    dumps_place: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = revisions()
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        assert migrate.main(["run"]) == 1
        said = capsys.readouterr().err
        assert "no dump could be made, nothing was changed" in said
        assert "to migrate without one: --set database.dumps.enabled=false" in said
        patch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:1")
        with pytest.raises(Transient, match="no dump could be made"):
            migrate.run(patience=0)
        patch.setenv("MLPLATFORM_DUMPS", "/a/folder")
        assert migrate.main(["run"]) == 1
        assert "write s3://BUCKET/PREFIX" in capsys.readouterr().err
    assert revisions() == before
    monkeypatch.delenv("MLPLATFORM_DUMPS")
    migrate.run()  # told to go without
    assert revisions() == schemas.needed()


def test_the_last_few_are_kept_and_what_was_broken_off_goes(
    database: Database, dumps_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database()
    folder = dumps.place()
    with psycopg.connect(autocommit=True) as connection:
        assert not dumps.make(connection, {})  # nothing to lose
    names = [f"2026010{n}T000000Z-abc" for n in range(5)]
    for name in names:
        for part in ("tables/a.copy.gz", dump.MANIFEST):
            with folder.writing(f"{name}/{part}") as out:
                out.write(b"x")
    folder.delete([f"{names[4]}/{dump.MANIFEST}"])  # one that was not finished
    place = {"Bucket": folder.bucket, "Key": f"{folder.prefix}{names[4]}/tables/b.copy.gz"}
    folder.client.create_multipart_upload(**place)
    monkeypatch.setenv("MLPLATFORM_DUMPS_KEEP", "2")
    dumps.prune()
    assert sorted({n.split("/")[0] for n in folder.names()}) == names[2:4]
    assert "Uploads" not in folder.client.list_multipart_uploads(Bucket=folder.bucket, Prefix=folder.prefix)


def test_a_large_table_passes_in_parts_and_not_through_memory(
    database: Database, dumps_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database()
    monkeypatch.setattr(object_store, "PART", 5 * 2**20)  # the least that S3 takes
    with psycopg.connect(autocommit=True) as connection:
        connection.execute(
            "create table big as select n, string_agg(md5(n::text || k), '') as text "
            "from generate_series(1, 90000) n, generate_series(1, 12) k group by n"
        )
        folder = dumps.place()
        with folder.writing("first") as out:
            out.write(b"x")  # what boto3 loads at its first request is not counted
        tracemalloc.start()
        with dump.snapshot(connection):
            about = dump.Manifest(created="", mlflow="", postgres="", revisions={})
            done = dump.write(connection, about, folder.writing)
        written = tracemalloc.get_traced_memory()[1]
        connection.execute("create table copy (like big)")
        tracemalloc.reset_peak()
        with connection.transaction():
            dump.load(connection, done, folder.reading)
        loaded = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert connection.execute("select count(*), count(distinct text), sum(n) from big").fetchone() == (
            90_000,
            90_000,
            90_000 * 90_001 // 2,
        )
    assert done.size > 33 * 2**20
    found = folder.client.head_object(Bucket=folder.bucket, Key=f"{folder.prefix}tables/big.copy.gz")
    assert found["ContentLength"] > 2 * object_store.PART
    assert max(written, loaded) < 25 * 2**20


def test_a_writer_that_fails_leaves_no_object(dumps_place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "PART", 5 * 2**20)
    folder = dumps.place()

    def fail(size: int) -> None:
        with folder.writing("object") as out:
            out.write(b"x" * size)
            raise RuntimeError

    for size in (6 * 2**20, 1):
        with pytest.raises(RuntimeError):
            fail(size)
    assert list(folder.names()) == []
    assert "Uploads" not in folder.client.list_multipart_uploads(Bucket=folder.bucket, Prefix=folder.prefix)
