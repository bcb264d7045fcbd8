"""What the platform's tables are like: columns, keys, references; Postgres is asked, so none is forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_platform.server import dump

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True, slots=True)
class Column:
    """`limit`: characters that it takes, 0 for any number; `whole`: bits of an integer, 0 for others."""

    name: str
    type: str
    limit: int
    whole: int


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key; `empties`: Postgres sets it to null where the parent goes."""

    columns: tuple[str, ...]
    parent: str
    keys: tuple[str, ...]
    empties: bool


@dataclass
class Table:
    """A table of the platform's; `uniques` are other sets of columns that must differ."""

    name: str
    columns: dict[str, Column]
    key: tuple[str, ...] = ()
    uniques: list[tuple[str, ...]] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)

    def value(self, alias: str, column: str) -> str:
        """SQL for a column that can be compared: json knows no equality."""
        cast = "::text" if self.columns[column].type == "json" else ""
        return f'{alias}."{column}"{cast}'

    def same(self, columns: Sequence[str], left: str, right: str) -> str:
        """SQL for: these columns are equal."""
        return " and ".join(f"{self.value(left, c)} = {self.value(right, c)}" for c in columns)


def tables(connection: psycopg.Connection[Any]) -> dict[str, Table]:
    """Every table of `public` that is ours, parents before children."""
    listed = dump.in_order(connection, dump.tables(connection))
    found: dict[str, Table] = {}
    for one in listed:
        columns = {
            name: Column(name, kind, limit or 0, bits or 0)
            for name, kind, limit, bits in connection.execute(
                "select column_name, data_type, character_maximum_length,"
                " case when data_type in ('integer', 'bigint') then numeric_precision end"
                " from information_schema.columns where table_schema = 'public' and table_name = %s"
                " and is_generated = 'NEVER' order by ordinal_position",
                (one.name,),
            )
        }
        found[one.name] = Table(one.name, columns)
    for name, columns, primary in connection.execute(
        "select c.relname, array_agg(a.attname::text order by k.place), i.indisprimary"
        " from pg_index i join pg_class c on c.oid = i.indrelid"
        " cross join unnest(i.indkey) with ordinality k(number, place)"
        " join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number"
        " where i.indisunique and c.relnamespace = 'public'::regnamespace"
        " group by c.relname, i.indexrelid, i.indisprimary order by 1, 2"
    ):
        if name in found:
            if primary:
                found[name].key = tuple(columns)
            else:
                found[name].uniques.append(tuple(columns))
    for name, columns, parent, keys, action in connection.execute(
        "select c.relname, array_agg(a.attname::text order by k.place), p.relname,"
        " array_agg(b.attname::text order by k.place), f.confdeltype"
        " from pg_constraint f join pg_class c on c.oid = f.conrelid join pg_class p on p.oid = f.confrelid"
        " cross join unnest(f.conkey, f.confkey) with ordinality k(mine, theirs, place)"
        " join pg_attribute a on a.attrelid = c.oid and a.attnum = k.mine"
        " join pg_attribute b on b.attrelid = p.oid and b.attnum = k.theirs"
        " where f.contype = 'f' and c.relnamespace = 'public'::regnamespace"
        " group by c.relname, f.oid, p.relname, f.confdeltype order by 1, 2"
    ):
        if name in found:
            empties = action in ("n", b"n")
            found[name].references.append(Reference(tuple(columns), parent, tuple(keys), empties))
    return found


def names(columns: Mapping[str, Column] | Sequence[str]) -> str:
    """SQL for a list of columns."""
    return ", ".join(f'"{name}"' for name in columns)
