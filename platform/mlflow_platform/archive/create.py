"""Making an archive: rows from one snapshot, then objects, then all of it read back, then the manifest."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_platform.adapters import temporary
from mlflow_platform.adapters.object_store import Found, ObjectStore
from mlflow_platform.adapters.postgres import Database, exclusive, translated
from mlflow_platform.adapters.transfers import parallel
from mlflow_platform.archive import manifest, places, tables
from mlflow_platform.archive.copying import WORKERS, copy, send
from mlflow_platform.archive.manifest import OBJECTS, File, Manifest
from mlflow_platform.archive.parquet import TableFiles
from mlflow_platform.archive.places import Listings, Whose
from mlflow_platform.archive.verify import verify
from mlflow_platform.errors import BadInput, Fatal, Rejected
from mlflow_platform.retention import journal
from mlflow_platform.retention.roots import Roots

if TYPE_CHECKING:
    import psycopg

#: Rows fetched at once: of the tables with texts of any length, and of all others.
_FEW, _MANY = 200, 10_000
_WIDE = frozenset({"spans", "datasets", "assessments", "logged_model_params", "logged_model_tags"})


@dataclass(frozen=True)
class Choice:
    """What goes into an archive."""

    runs: Sequence[str] = ()
    models: Sequence[str] = ()
    traces: Sequence[str] = ()
    versions: Sequence[str] = ()
    """WORKSPACE/MODEL/NUMBER."""
    experiments: Sequence[int] = ()
    """Their own rows, with all their datasets."""
    inside: bool = False
    """Also all that is in `experiments`, the traces of `runs`, and the model versions of all of these."""

    @classmethod
    def of_kind(cls, kind: str, ids: Sequence[str]) -> Choice:
        """What a purge of these deletes; kinds as retention calls them."""
        return {
            "run": lambda: cls(runs=ids),
            "logged model": lambda: cls(models=ids),
            "trace": lambda: cls(traces=ids),
            "version": lambda: cls(versions=ids),
            "experiment": lambda: cls(experiments=[int(i) for i in ids]),
        }[kind]()

    def note(self, connection: psycopg.Connection[Any], *, around: bool = True) -> None:
        """Fill the temporary tables of ids. A run's logged models go with it, as they do in a purge.

        `around`: also the experiments that all of it is in.
        """
        tables.prepare(connection)
        values = {
            "runs": list(self.runs),
            "models": list(self.models),
            "traces": list(self.traces),
            "versions": list(self.versions),
            "experiments": list(self.experiments),
            "inside": self.inside,
        }
        for statement in (*_CHOICE, _AROUND) if around else _CHOICE:
            connection.execute(statement, values)
        for kind in tables.KINDS.values():
            connection.execute(f"analyze pg_temp.archive_{kind}")


_CHOICE = (
    (
        "insert into pg_temp.archive_run select unnest(%(runs)s::text[])"
        " union select run_uuid from public.runs where %(inside)s and experiment_id = any(%(experiments)s)"
    ),
    (
        "insert into pg_temp.archive_model select unnest(%(models)s::text[]) union select model_id"
        " from public.logged_models where source_run_id in (select id from pg_temp.archive_run)"
        " union select model_id from public.logged_models"
        " where %(inside)s and experiment_id = any(%(experiments)s)"
    ),
    # mlflow/tracing/constant.py: TraceMetadataKey.SOURCE_RUN; links: `link_traces_to_run`.
    (
        "insert into pg_temp.archive_trace select unnest(%(traces)s::text[]) union select request_id"
        " from public.trace_info where %(inside)s and experiment_id = any(%(experiments)s)"
        " union select m.request_id from public.trace_request_metadata m join pg_temp.archive_run a"
        " on m.value = a.id where %(inside)s and m.key = 'mlflow.sourceRun'"
        " union select e.source_id from public.entity_associations e join pg_temp.archive_run a"
        " on e.destination_id = a.id join public.trace_info i on i.request_id = e.source_id"
        " where %(inside)s and e.source_type = 'trace' and e.destination_type = 'run'"
    ),
    # Whichever holds the id of a run or logged model (retention/protections.py says why).
    (
        "insert into pg_temp.archive_version select unnest(%(versions)s::text[])"
        f" union select {tables.VERSION} from public.model_versions t cross join lateral regexp_matches("
        "  concat_ws(' ', t.run_id, t.source, t.storage_location), '[0-9a-f]{32}', 'g') as i(found)"
        " where %(inside)s and t.current_stage is distinct from 'Deleted_Internal'"
        " and (i.found[1] in (select id from pg_temp.archive_run)"
        "  or 'm-' || i.found[1] in (select id from pg_temp.archive_model))"
    ),
    "insert into pg_temp.archive_experiment select unnest(%(experiments)s::text[]), true",
)
_AROUND = (
    "insert into pg_temp.archive_experiment"
    " select r.experiment_id::text from public.runs r join pg_temp.archive_run a on a.id = r.run_uuid"
    " union select m.experiment_id::text from public.logged_models m"
    " join pg_temp.archive_model a on a.id = m.model_id"
    " union select t.experiment_id::text from public.trace_info t"
    " join pg_temp.archive_trace a on a.id = t.request_id on conflict do nothing"
)


@dataclass
class Made:
    """A finished archive."""

    manifest: Manifest
    fingerprints: dict[tuple[str, str], str] = field(default_factory=dict)
    """Of the rows of each thing, by (kind, id)."""
    listings: Listings = field(default_factory=Listings)
    missing: dict[tuple[str, str], str] = field(default_factory=dict)
    """Things whose artifacts are not all there, by (kind, id), and why."""


def archive(
    database: Database,
    roots: Roots,
    store: ObjectStore,
    *,
    experiments: Sequence[str] = (),
    runs: Sequence[str] = (),
    dry: bool = False,
    say: Callable[[str], None] = lambda _: None,
    step: Callable[[str], None] = lambda _: None,
) -> Made:
    """Archive whole experiments, by name or id, and runs, while nothing else is at work on the database.

    `dry`: only count. Raises `BadInput` for what is not there, `Blocked` while a migration, a backup or
    retention is at work.
    """
    with exclusive(database, waiting=lambda: say("waiting for the lock")):
        with database.connect(autocommit=True) as connection, translated():
            journal.check_revision(connection)
            rows = connection.execute(
                "select experiment_id, name from public.experiments"
                " where name = any(%s) or experiment_id::text = any(%s)",
                (list(experiments), list(experiments)),
            ).fetchall()
            known = {text for row in rows for text in (str(row[0]), row[1])}
            gone = [name for name in experiments if name not in known]
            there = "select run_uuid from public.runs where run_uuid = any(%s)"
            found = {row[0] for row in connection.execute(there, (list(runs),))}
            gone += [run for run in runs if run not in found]
        if gone:
            raise BadInput(
                f"there is no experiment or run {gone[0]}"
                + (f", and {len(gone) - 1} more" if len(gone) > 1 else ""),
                remedy="give names or ids of experiments, and ids of runs, that are there",
            )
        choice = Choice(runs=runs, experiments=[row[0] for row in rows], inside=True)
        return create(database, roots, store, choice, dry=dry, say=say, step=step)


def create(
    database: Database,
    roots: Roots,
    store: ObjectStore,
    choice: Choice,
    *,
    policy: str | None = None,
    fingerprints: bool = False,
    dry: bool = False,
    say: Callable[[str], None] = lambda _: None,
    step: Callable[[str], None] = lambda _: None,
) -> Made:
    """Archive a choice. The caller sees that no objects are deleted meanwhile."""
    begun = datetime.datetime.now(datetime.UTC)
    maker = _Maker(store, f"{begun:%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(4)}", say, step)
    with (
        temporary.folder("archive") as folder,
        translated(),
        database.connect(autocommit=True) as connection,
    ):
        connection.execute("set default_transaction_isolation to 'repeatable read'")
        with connection.transaction():
            revision = journal.check_revision(connection, lock=True)
            choice.note(connection)
            known = tables.columns(connection)
            installation = _installation(connection)
            experiments = [
                {"id": str(i), "name": name, "workspace": workspace, "runs": count}
                for i, name, workspace, count in connection.execute(_EXPERIMENTS)
            ]
            made = Made(
                Manifest(
                    maker.id,
                    f"{begun:%Y-%m-%dT%H:%M:%SZ}",
                    revision,
                    journal.KNOWN_REVISIONS[revision],
                    installation,
                    policy,
                    experiments,
                    {},
                    0,
                    0,
                )
            )
            for table in tables.TABLES:
                maker.table(connection, table, known[table.name], folder, dry=dry)
            if fingerprints:
                made.fingerprints = tables.fingerprints(connection, known)
            places.note_places(connection, tables.PUBLIC)
        step("tables written")
        count, size = maker.artifacts(connection, roots, folder, made, dry=dry)
        step("objects copied")
    made.manifest = Manifest(
        **{
            **made.manifest.__dict__,
            "counts": {name: rows for name, rows in maker.counts.items() if rows},
            "objects": count,
            "bytes": size,
            "files": maker.files,
        }
    )
    if dry:
        return made
    say("reading all of it back")
    wrong = list(verify(store, made.manifest))
    if wrong:
        raise Fatal(
            f"the archive is not what was written: {wrong[0]}"
            + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""),
            remedy=f"look at the store {store.uri}; nothing was deleted",
        )
    step("verified")
    manifest.write(store, made.manifest)
    step("manifest written")
    return made


_EXPERIMENTS = """
select e.experiment_id, e.name, e.workspace, (select count(*) from public.runs r
  join pg_temp.archive_run b on b.id = r.run_uuid where r.experiment_id = e.experiment_id)
from public.experiments e join pg_temp.archive_experiment a on a.id = e.experiment_id::text order by 1
"""


def _installation(connection: psycopg.Connection[Any]) -> str | None:
    if not journal.exists(connection):
        return None
    row = connection.execute("select id::text from mlplatform.installation").fetchone()
    return row[0] if row else None


@dataclass
class _Maker:
    store: ObjectStore
    id: str
    say: Callable[[str], None]
    step: Callable[[str], None]
    files: list[File] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def table(
        self,
        connection: psycopg.Connection[Any],
        table: tables.Table,
        columns: dict[str, str],
        folder: Path,
        *,
        dry: bool,
    ) -> None:
        """Write the chosen rows of one table."""
        statement = tables.select(table, list(columns), tables.PUBLIC)
        if dry:
            row = connection.execute(f"select count(*) from ({statement}) as t").fetchone()
            self.counts[table.name] = row[0] if row else 0
            return
        with (
            connection.cursor(name="archive") as cursor,
            TableFiles(columns, folder, self._sender(table.name)) as file,
        ):
            cursor.execute(statement)
            while rows := cursor.fetchmany(_FEW if table.name in _WIDE else _MANY):
                file.write(rows)
                self.counts[table.name] = self.counts.get(table.name, 0) + len(rows)
                self.say(f"{table.name}: {self.counts[table.name]:,} rows")

    def artifacts(
        self, connection: psycopg.Connection[Any], roots: Roots, folder: Path, made: Made, *, dry: bool
    ) -> tuple[int, int]:
        """Copy the objects and write the table of them; how many objects, how many bytes."""
        count = size = 0
        with TableFiles(OBJECTS, folder, (lambda *_: None) if dry else self._sender("objects")) as file:
            for whose in places.noted(connection):
                found = places.located(roots, whose, made.missing)
                made.missing.update(places.unreadable(roots, found))
                if dry:
                    for *_, one in places.objects(roots, found):
                        count, size = count + 1, size + one.size
                    continue
                before = Listings()

                def listing(found: Any = found, before: Listings = before) -> Any:
                    for item in places.objects(roots, found):
                        before.add(item[1].thing, item[3])
                        if not item[3].unreadable:
                            yield item

                rows = []
                for thing, row in parallel(self._copy, listing(), WORKERS):
                    if isinstance(row, str):
                        made.missing[thing] = row
                        continue
                    count, size = count + 1, size + row[5]
                    rows.append(row)
                    if len(rows) == _MANY:
                        file.write(rows)
                        rows = []
                        self.say(f"{count:,} objects, {size:,} bytes")
                file.write(rows)
                after = places.listed(roots, found)
                for thing in {one.thing for one in found.values()}:
                    if before.of(thing) != after.of(thing):
                        made.missing[thing] = "its artifacts changed while they were archived"
                made.listings.update(after)
                self.say(f"{count:,} objects, {size:,} bytes")
        return count, size

    def _copy(
        self, item: tuple[ObjectStore, Whose, str, Found]
    ) -> tuple[tuple[str, str], tuple[Any, ...] | str]:
        """Whose it is, and its row in the table of objects or why there is none."""
        source, whose, path, one = item
        file = places.file_of(whose, path)
        try:
            done = copy(source, one.key, self.store, f"archives/{self.id}/{file}", one.size)
        except Rejected as error:
            if error.code == "Unreadable":
                return whose.thing, error.problem.what
            if error.code != "Changed":
                raise
            done = None
        if done is None:
            return whose.thing, "an object changed or went away while it was archived"
        return whose.thing, (whose.kind, whose.id, whose.uri, path, file, *done)

    def _sender(self, table: str) -> Callable[[Path, int, int], None]:
        def done(path: Path, rows: int, number: int) -> None:
            name = f"tables/{table}/{number:05}.parquet"
            size, digest = send(self.store, path, f"archives/{self.id}/{name}")
            self.files.append(File(name, table, rows, size, digest))
            self.step(f"table {table}")

        return done
