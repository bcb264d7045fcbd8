"""Proves that a backup can be restored, by doing it: rows into a scratch database, artifacts row by row.

It has the backup's credentials alone, and says so where they open the source as well: a restore after the
source's loss must not need it. That a damaged object would be noticed it shows by damaging one on its way.
"""

from __future__ import annotations

import contextlib
import posixpath
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from mlflow_platform.adapters.postgres import Database, translated
from mlflow_platform.adapters.s3 import S3Tree
from mlflow_platform.adapters.trees import Stat, Tree
from mlflow_platform.backup import loading, manifest
from mlflow_platform.backup.index import entries, known
from mlflow_platform.backup.loading import Part
from mlflow_platform.backup.manifest import Manifest, Root
from mlflow_platform.backup.vault import BACKUPS, Vault
from mlflow_platform.backup.verify import SHOWN, Verified, read_one, verify_objects, verify_table
from mlflow_platform.errors import Fatal, PlatformError
from mlflow_platform.server import database, dump, schemas

if TYPE_CHECKING:
    import psycopg

#: What each row with artifacts says of them: kind, id, address. What a version names by `models:/` or
#: `runs:/` is a row of its own.
_ADDRESSES = """
select 'run', run_uuid, artifact_uri from runs where artifact_uri is not null
union all select 'logged model', model_id, artifact_location from logged_models
union all select 'trace', request_id, value from trace_tags where key = 'mlflow.artifactLocation'
union all select 'model version', name || '/' || version, coalesce(storage_location, source)
  from model_versions where coalesce(storage_location, source) !~ '^(models|runs|prompts):'
"""
#: In a database that a drill has filled, while it is at it.
_MARK = "mlplatform.drill"


@dataclass
class Drilled:
    """What was proved, and in how many seconds each step.

    `named` rows have artifacts in the backup, `bare` rows have none, `outside` ones name places that are not
    in the backup.
    """

    backup: str
    read: Verified
    seconds: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    named: int = 0
    bare: int = 0
    outside: int = 0
    noticed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.problems and not self.read.failed


def drill(
    vault: Vault,
    name: str,
    tracking: Database,
    auth: Database | None,
    *,
    reach: Callable[[str], Tree] | None = None,
    again: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Drilled:
    """Restore into two empty databases, which hold the backup's rows afterwards, and read every artifact.

    `reach` opens an address with the drill's credentials, to show that they do not open the source. `again`:
    the databases are for the next drill, too: they are left empty, and one that a killed drill has filled is
    emptied first.
    """
    found = manifest.read(vault, name)
    report = Drilled(name, Verified(name))
    databases = [d for d in (tracking, auth) if d is not None] if again else []

    @contextlib.contextmanager
    def timed(step: str) -> Iterator[None]:
        say(step)
        began = time.monotonic()
        yield
        report.seconds[step] = round(time.monotonic() - began, 3)

    with timed("sabotage"):
        _sabotage(vault, found, report)
    try:
        with timed("databases"):
            for one in databases:
                _clear(one)
                _refuse_taken(one)
            _load(vault, found, tracking, auth, report, again=again)
    except PlatformError as error:
        report.problems.append(error.problem.what)
    else:
        with timed("rows"), closing(tracking.connect()) as connection, translated():
            _rows(connection, vault, found, report)
    with timed("objects"):
        verify_objects(vault, found, report.read, say=say)
    if reach is not None:
        _refuse_reach(found, reach, report)
    for one in databases:
        _clear(one)
    return report


def _clear(where: Database) -> None:
    """Drop what a drill has restored there. What has no mark of one is not touched."""
    from psycopg.sql import SQL, Identifier

    with closing(where.connect()) as connection, translated():
        if connection.execute("select to_regclass(%s) is null", (_MARK,)).fetchone() == (True,):
            return
        for table in dump.tables(connection):
            connection.execute(SQL("drop table {} cascade").format(Identifier(table.name)))
        connection.execute(f"drop table {_MARK}")
        connection.commit()


def _refuse_taken(where: Database) -> None:
    """What is emptied afterwards must not have had anybody's tables, whatever their names."""
    with closing(where.connect()) as connection, translated():
        if there := dump.tables(connection):
            raise _not_empty(there[0].name)


def _not_empty(table: str) -> Fatal:
    return Fatal(f"the scratch database is not empty: it has {table}", remedy="name an empty one")


def _load(
    vault: Vault, found: Manifest, tracking: Database, auth: Database | None, report: Drilled, *, again: bool
) -> None:
    for part in loading.parts(vault, found):
        where = tracking if part.schema is schemas.TRACKING or auth is None else auth
        with closing(where.connect(autocommit=True)) as connection:
            _load_part(connection, vault, part, report, again=again)


def _load_part(
    connection: psycopg.Connection[Any], vault: Vault, part: Part, report: Drilled, *, again: bool
) -> None:
    with translated():
        there = {t.name for t in dump.tables(connection)}
    if taken := sorted(there & {t.name for t in part.dumped.tables}):
        raise _not_empty(taken[0])
    with database.transaction(connection) as (alchemy, step):
        step("the rows could not be restored")
        if again:
            connection.execute("create schema if not exists mlplatform")
            connection.execute(f"create table if not exists {_MARK} ()")
        loading.build(connection, alchemy, [part])
        loading.fill(connection, alchemy, [part], vault)
        report.rows += sum(t.rows for t in part.dumped.tables)


def _rows(connection: psycopg.Connection[Any], vault: Vault, found: Manifest, report: Drilled) -> None:
    """Look up what each row names. A version without objects is told; it is no fault of the backup's, since
    the source had none either."""
    with contextlib.ExitStack() as files:
        places = []
        for root in found.roots:
            there = files.enter_context(known())
            there.set_objects(entries(vault, root))
            places.append((root, there))
        with connection.cursor(name="drill") as rows:
            rows.execute(_ADDRESSES)
            for kind, id_, uri in rows:
                place = resolve(uri, found.roots)
                if place is None:
                    report.outside += 1
                    continue
                if next(there for root, there in places if root is place[0]).has_object_below(place[1]):
                    report.named += 1
                else:
                    report.bare += 1
                    if kind == "model version" and len(report.notes) < SHOWN:
                        report.notes.append(f"the {kind} {id_} names {uri}, where the source had no object")


def resolve(uri: str, roots: Sequence[Root]) -> tuple[Root, str] | None:
    """The root and the folder in it that an address of MLflow's means; None where no root has it."""
    parts = urlsplit(uri)
    if parts.scheme == "mlflow-artifacts":
        path = posixpath.normpath(parts.path).lstrip("/").removeprefix("api/2.0/mlflow-artifacts/artifacts/")
        return next(((root, path) for root in roots if root.proxied), None)
    if parts.scheme in ("", "file"):
        uri = f"file://{posixpath.normpath(unquote(parts.path))}"
    nearest = max((r for r in roots if uri.startswith(f"{r.uri}/")), key=lambda r: len(r.uri), default=None)
    return (nearest, uri[len(nearest.uri) + 1 :].rstrip("/")) if nearest else None


def _sabotage(vault: Vault, found: Manifest, report: Drilled) -> None:
    """Read an object and a table with one byte changed on the way: both must be noticed."""
    entry = next((e for root in found.roots for e in entries(vault, root) if e.stat.size), None)
    if entry is None:
        report.notes.append("the backup has no object that could be damaged")
    else:
        _notice(entry.stat.key, read_one(_damaging(vault, vault.content(entry.sha256)), entry), report)
    for name, dumped in manifest.databases(vault, found).items():
        table = max(dumped.tables, key=lambda t: t.rows)
        stream = f"{BACKUPS}{found.name}/{name}/{table.stream}"
        try:
            verify_table(_damaging(vault, stream), stream, table)
        except Fatal as error:
            _notice(stream, error.problem.what, report)
        else:
            _notice(stream, "", report)


def _notice(what: str, problem: str, report: Drilled) -> None:
    if problem:
        report.noticed.append(what)
    else:
        report.problems.append(f"one byte of {what} was changed, and nobody noticed")


def _damaging(vault: Vault, name: str) -> Vault:
    return replace(vault, tree=_DamagingTree(vault.tree, name))


class _DamagingTree:
    """A tree in which one object has another byte in its middle. Nothing is written."""

    def __init__(self, tree: Tree, name: str) -> None:
        self._tree, self._name, self.uri = tree, name, tree.uri

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tree, name)

    @contextlib.contextmanager
    def reading(self, key: str, version: str = "") -> Iterator[tuple[Stat, Any]]:
        with self._tree.reading(key, version) as (stat, source):
            yield stat, (_Damaged(source, stat.size // 2) if key == self._name else source)


class _Damaged:
    def __init__(self, source: dump.Source, at: int) -> None:
        self._source, self._left = source, at

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        if 0 <= self._left < len(data):
            data = data[: self._left] + bytes([data[self._left] ^ 1]) + data[self._left + 1 :]
        self._left -= len(data)
        return data


def _refuse_reach(found: Manifest, reach: Callable[[str], Tree], report: Drilled) -> None:
    for root in found.roots:
        try:
            tree = reach(root.uri)
            with closing(tree):
                next(iter(tree.listed()), None)
        except PlatformError:
            continue
        what = "credentials" if isinstance(tree, S3Tree) else "machine"
        report.notes.append(
            f"the drill's {what} can read the source {root.uri}: that a restore works without it is not shown"
        )
