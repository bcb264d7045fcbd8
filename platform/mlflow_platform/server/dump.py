"""Tables as streams of rows: out of one snapshot, and back into tables of the same columns.

Rows travel as COPY's text, compressed, one stream a table, with their number and the digest of their
text; generated columns stay behind, the database makes them anew. No `pg_dump`: each of its versions
refuses servers and files of others. What streams are written to, and read from, is the caller's.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, Protocol

from mlflow_platform.errors import BadInput, Fatal

if TYPE_CHECKING:
    import psycopg

#: How much is compressed and digested at once, in bytes; COPY gives one row at a time.
BLOCK = 1024 * 1024
#: Version of the manifest: of another one, nothing is read.
FORMAT = 1
MANIFEST = "manifest.json"
#: COPY's text does not depend on the session that writes it or the one that reads it.
_SETTINGS = {"datestyle": "ISO", "timezone": "UTC", "bytea_output": "hex", "extra_float_digits": "1"}


class Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


class Source(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


#: Name of a stream -> where its bytes go; what is written counts only if the block ends without an error.
Writing = Callable[[str], AbstractContextManager[Sink]]
Reading = Callable[[str], AbstractContextManager[Source]]


@dataclass(frozen=True)
class Table:
    """A table and, once it is written, its number of rows, bytes of text and their SHA-256."""

    name: str
    columns: tuple[str, ...]
    rows: int = 0
    size: int = 0
    sha256: str = ""

    @property
    def stream(self) -> str:
        return f"tables/{self.name}.copy.gz"


@dataclass(frozen=True)
class Counter:
    """A sequence, by the column that it numbers."""

    table: str
    column: str
    last: int
    called: bool


@dataclass(frozen=True)
class Manifest:
    """What a dump holds. `revisions`: schema -> revision, None for one that kept none."""

    created: str
    mlflow: str
    postgres: str
    revisions: Mapping[str, str | None]
    tables: tuple[Table, ...] = ()
    counters: tuple[Counter, ...] = ()

    @property
    def rows(self) -> int:
        return sum(t.rows for t in self.tables)

    @property
    def size(self) -> int:
        """Bytes of all rows' text, uncompressed."""
        return sum(t.size for t in self.tables)

    def text(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def parse(cls, text: bytes) -> Manifest:
        """`BadInput` if it is none, or of another version."""
        try:
            found = json.loads(text)
            if found.pop("format") != FORMAT:
                raise BadInput("the dump is of another version of this program", remedy="use its image")
            found["tables"] = tuple(Table(**{**t, "columns": tuple(t["columns"])}) for t in found["tables"])
            found["counters"] = tuple(Counter(**c) for c in found["counters"])
            return cls(**found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{MANIFEST} is not a dump's: {error}", remedy="name another dump") from error


@contextlib.contextmanager
def snapshot(connection: psycopg.Connection[Any], exported: str = "") -> Iterator[str]:
    """A read-only transaction that sees one moment; its name, under which other connections may join it.

    The connection is in autocommit mode. With `exported`, the name of another one's snapshot, join that.
    """
    from psycopg import sql

    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        if exported:
            connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(exported)))
        for name, value in _SETTINGS.items():
            connection.execute("select set_config(%s, %s, true)", (name, value))
        row = connection.execute("select pg_export_snapshot()").fetchone()
        yield str(row[0]) if row else ""


def tables(connection: psycopg.Connection[Any]) -> list[Table]:
    """Our role's tables in the schema that comes first on the search path, with all but generated columns."""
    rows = connection.execute(
        """
        select c.relname, array_agg(a.attname order by a.attnum) filter (where a.attgenerated = '')
        from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r'
          and pg_has_role(c.relowner, 'usage')
        group by c.relname order by c.relname
        """
    )
    return [Table(name, tuple(columns or ())) for name, columns in rows]


def write(
    connection: psycopg.Connection[Any],
    about: Manifest,
    writing: Writing,
    say: Callable[[Table], None] = lambda _: None,
) -> Manifest:
    """Every table to a stream of its own, then the manifest, without which a dump is none.

    To be called within `snapshot`. `say` hears of each table when it is written.
    """
    written = []
    for table in tables(connection):
        written.append(_write_table(connection, table, writing))
        say(written[-1])
    done = replace(about, tables=tuple(written), counters=tuple(_counters(connection, written)))
    with writing(MANIFEST) as out:
        out.write(done.text().encode())
    return done


def _write_table(connection: psycopg.Connection[Any], table: Table, writing: Writing) -> Table:
    digest, size = hashlib.sha256(), 0
    with writing(table.stream) as out, connection.cursor() as cursor:
        # Level 1: the network and Postgres are to be the slow part.
        with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1, mtime=0) as packed:  # type: ignore[call-overload] # it only writes

            def flush(rows: list[bytes]) -> int:
                block = b"".join(rows)
                digest.update(block)
                packed.write(block)
                return len(block)

            pending: list[bytes] = []
            held = 0
            with cursor.copy(_statement("copy {} ({}) to stdout", table)) as rows:
                for row in rows:
                    pending.append(bytes(row))
                    held += len(row)
                    if held >= BLOCK:
                        size += flush(pending)
                        pending, held = [], 0
            size += flush(pending)
        return replace(table, rows=cursor.rowcount, size=size, sha256=digest.hexdigest())


def _counters(connection: psycopg.Connection[Any], written: Iterable[Table]) -> Iterator[Counter]:
    from psycopg import sql

    names = [t.name for t in written]
    owned = connection.execute(
        """
        select s.relname, t.relname, a.attname
        from pg_depend d
        join pg_class s on s.oid = d.objid and s.relkind = 'S'
        join pg_class t on t.oid = d.refobjid and t.relnamespace = s.relnamespace
        join pg_attribute a on a.attrelid = t.oid and a.attnum = d.refobjsubid
        where d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i')
          and s.relnamespace = current_schema()::regnamespace and t.relname = any(%s)
        order by 2, 3
        """,
        (names,),
    ).fetchall()
    for sequence, table, column in owned:
        now = sql.SQL("select last_value, is_called from {}").format(sql.Identifier(sequence))
        for last, called in connection.execute(now):
            yield Counter(table, column, last, called)


def load(
    connection: psycopg.Connection[Any],
    manifest: Manifest,
    reading: Reading,
    say: Callable[[Table], None] = lambda _: None,
) -> None:
    """Put a dump's rows into tables that are there, in place of what they hold; sequences go on from it.

    To be called within a transaction, which an error is to roll back: `Fatal` where columns, number of
    rows or digest are not the dump's.
    """
    from psycopg import sql

    there = {t.name: set(t.columns) for t in tables(connection)}
    for table in manifest.tables:
        if there.get(table.name) != set(table.columns):
            raise Fatal(
                f"table {table.name} is not as in the dump: it has {sorted(there.get(table.name, ()))}, "
                f"the dump {sorted(table.columns)}",
                remedy="restore with the image that wrote the dump",
            )
    for name, value in _SETTINGS.items():
        connection.execute("select set_config(%s, %s, true)", (name, value))
    if manifest.tables:
        every = sql.SQL(", ").join(sql.Identifier(t.name) for t in manifest.tables)
        connection.execute(sql.SQL("truncate {}").format(every))
    for table in in_order(connection, manifest.tables):
        _load_table(connection, table, reading)
        say(table)
    for counter in manifest.counters:
        found = connection.execute(
            "select setval(pg_get_serial_sequence(quote_ident(%s), %s), %s, %s)",
            (counter.table, counter.column, counter.last, counter.called),
        ).fetchone()
        if found is None or found[0] is None:
            raise Fatal(f"{counter.table}.{counter.column} has no sequence, in the dump it has one")


def _load_table(connection: psycopg.Connection[Any], table: Table, reading: Reading) -> None:
    digest = hashlib.sha256()
    with reading(table.stream) as source, connection.cursor() as cursor:
        try:
            with (
                gzip.GzipFile(fileobj=source, mode="rb") as rows,  # type: ignore[call-overload] # it only reads
                cursor.copy(_statement("copy {} ({}) from stdin", table)) as copy,
            ):
                while block := rows.read(BLOCK):
                    digest.update(block)
                    copy.write(block)
        except (OSError, EOFError, zlib.error) as error:
            raise Fatal(f"{table.stream} is damaged: {error}", remedy="restore another dump") from error
        if (cursor.rowcount, digest.hexdigest()) != (table.rows, table.sha256):
            raise Fatal(
                f"{table.stream} is not what was written: {cursor.rowcount} rows, {table.rows} were written",
                remedy="restore another dump",
            )


def in_order(connection: psycopg.Connection[Any], wanted: Sequence[Table]) -> list[Table]:
    """Tables so that each comes after those that its foreign keys name."""
    by_name = {t.name: t for t in wanted}
    order: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(by_name, ()))
    for child, parent in connection.execute(
        """
        select c.relname, p.relname from pg_constraint k
        join pg_class c on c.oid = k.conrelid join pg_class p on p.oid = k.confrelid
        where k.contype = 'f' and k.conrelid <> k.confrelid
          and k.connamespace = current_schema()::regnamespace
        """
    ):
        if child in by_name and parent in by_name:
            order.add(child, parent)
    try:
        return [by_name[name] for name in order.static_order()]
    except CycleError as error:
        raise Fatal(f"the foreign keys of {', '.join(error.args[1])} go in a circle") from error


def _statement(template: str, table: Table) -> Any:
    from psycopg import sql

    columns = sql.SQL(", ").join(sql.Identifier(c) for c in table.columns)
    return sql.SQL(template).format(sql.Identifier(table.name), columns)
