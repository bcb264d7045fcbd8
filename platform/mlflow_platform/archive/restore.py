"""Bringing an archive back: load and check it, fit it to this platform, upload artifacts, insert rows.

The rows come last and in one transaction, so a run that is there is whole. Whatever ends it before that, the
next restore does again what is not there yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_platform.adapters.object_store import ObjectStore
from mlflow_platform.adapters.postgres import Database, exclusive, translated
from mlflow_platform.adapters.transfers import parallel
from mlflow_platform.archive import parquet, tables
from mlflow_platform.archive.copying import WORKERS, copy, digest_of, fetched
from mlflow_platform.archive.fit import fit
from mlflow_platform.archive.manifest import OBJECTS, REMEDY, Corrupted, Manifest
from mlflow_platform.archive.tables import LOADED, PUBLIC, TABLES
from mlflow_platform.errors import BadInput
from mlflow_platform.retention import journal
from mlflow_platform.retention.objects import walk
from mlflow_platform.retention.roots import Place, Roots

if TYPE_CHECKING:
    import psycopg

#: Things that are told one by one.
_MOST = 5


@dataclass
class Restored:
    """What a restore did, or would do."""

    archive: str
    dry: bool
    rows: Counter[str] = field(default_factory=Counter)
    """Rows inserted, by table."""
    things: Counter[str] = field(default_factory=Counter)
    """Runs, models, traces and model versions that came back, by kind."""
    there: Counter[str] = field(default_factory=Counter)
    """Those that were there already, exactly as archived, by kind."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows of other things that are gone, by table: assessments of a run's on a trace, for example; and model
    versions whose number here is another's."""
    objects: int = 0
    bytes: int = 0
    objects_there: int = 0
    experiments: dict[str, str] = field(default_factory=dict)
    """Ids of experiments as archived -> here."""

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, **{k: dict(v) for k, v in self.__dict__.items() if isinstance(v, Counter)}}


def restore(
    database: Database,
    roots: Roots,
    store: ObjectStore,
    manifest: Manifest,
    *,
    runs: Sequence[str] = (),
    dry: bool = False,
    say: Callable[[str], None] = lambda _: None,
    step: Callable[[str], None] = lambda _: None,
) -> Restored:
    """Restore an archive, or only `runs` of it with their logged models.

    What retention or a user had soft-deleted comes back active, and no policy chooses it again. Raises
    `Corrupted` for an archive that is not what it was, `BadInput` for one of another schema revision and for
    what exists here and differs, `Blocked` while a migration, a backup or retention is at work.
    """
    found = Restored(manifest.id, dry)
    with (
        exclusive(database, waiting=lambda: say("waiting for the lock")),
        database.connect(autocommit=True) as connection,
        translated(),
    ):
        revision = journal.check_revision(connection)
        if manifest.revision != revision:
            raise BadInput(
                f"the archive {manifest.id} is of schema {manifest.revision} (MLflow {manifest.mlflow}), "
                f"this database of {revision}",
                remedy="restore it into a platform of that MLflow, and move it from there",
            )
        known = tables.columns(connection)
        with connection.transaction(force_rollback=dry):
            journal.check_revision(connection, lock=True)
            installation = journal.open_journal(connection)
            _load(connection, store, manifest, known, say)
            _choose(connection, runs, known)
            found.experiments = fit(connection, same=manifest.installation == str(installation.id))
            targets = _targets(connection, roots)
            _drop_parentless(connection, found)
            _compare(connection, known, found)
            if dry:
                _insert(connection, known, found)
                return found
        step("loaded")
        _upload(connection, store, manifest, roots, targets, found, say)
        step("objects uploaded")
        with connection.transaction():
            journal.check_unchanged(connection, installation)
            _compare(connection, known, found)
            _insert(connection, known, found)
            step("before commit")
        step("restored")
    return found


def _load(
    connection: psycopg.Connection[Any],
    store: ObjectStore,
    manifest: Manifest,
    known: dict[str, dict[str, str]],
    say: Callable[[str], None],
) -> None:
    """The archive's rows into temporary tables, each file checked first."""
    for table in TABLES:
        connection.execute(f"create temp table in_{table.name} (like public.{table.name})")
    connection.execute(
        "create temp table in_objects (kind text, owner text, uri text, path text, file text,"
        " bytes bigint, sha256 text)"
    )
    for name, columns in [*((t.name, known[t.name]) for t in TABLES), ("objects", OBJECTS)]:
        listed = ", ".join(f'"{column}"' for column in columns)
        for file in manifest.of(name):
            say(f"loading {file.path}")
            with (
                fetched(store, manifest, file) as path,
                connection.cursor() as cursor,
                cursor.copy(f"copy pg_temp.in_{name} ({listed}) from stdin") as copied,
            ):
                for rows in parquet.read(path, f"{store.uri}/{manifest.folder}{file.path}", columns):
                    for row in rows:
                        copied.write_row(row)
        connection.execute(f"analyze pg_temp.in_{name}")


def _choose(
    connection: psycopg.Connection[Any], runs: Sequence[str], known: dict[str, dict[str, str]]
) -> None:
    """Note the ids of all that is loaded, or of `runs` and their logged models; then drop all other rows."""
    tables.prepare(connection)
    every = not runs
    if not every:
        there = {row[0] for row in connection.execute("select run_uuid from pg_temp.in_runs")}
        missing = [run for run in runs if run not in there]
        if missing:
            raise BadInput(f"the archive holds no run {missing[0]}", remedy="name the archive that does")
    values = {"runs": list(runs), "every": every}
    for statement in (
        (
            "insert into pg_temp.archive_run select run_uuid from pg_temp.in_runs"
            " where %(every)s or run_uuid = any(%(runs)s)"
        ),
        (
            "insert into pg_temp.archive_model select model_id from pg_temp.in_logged_models"
            " where %(every)s or source_run_id = any(%(runs)s)"
        ),
        "insert into pg_temp.archive_trace select request_id from pg_temp.in_trace_info where %(every)s",
        (
            f"insert into pg_temp.archive_version select {tables.VERSION} from pg_temp.in_model_versions t"
            " where %(every)s or exists (select from regexp_matches("
            "  concat_ws(' ', t.run_id, t.source, t.storage_location), '[0-9a-f]{32}', 'g') as i(found)"
            "  where i.found[1] = any(%(runs)s)"
            "   or 'm-' || i.found[1] in (select id from pg_temp.archive_model))"
        ),
        (
            "insert into pg_temp.archive_experiment select experiment_id::text, %(every)s"
            " from pg_temp.in_experiments"
            " where %(every)s or experiment_id in (select experiment_id from pg_temp.in_runs"
            "  where run_uuid = any(%(runs)s) union all select experiment_id from pg_temp.in_logged_models"
            "  where source_run_id = any(%(runs)s))"
        ),
    ):
        connection.execute(statement, values)
    if every:
        return
    for table in reversed(TABLES):
        listed = list(known[table.name])
        connection.execute(f"create temp table kept on commit drop as {tables.select(table, listed, LOADED)}")
        names = ", ".join(f'"{name}"' for name in listed)
        if table.name == "inputs":  # input_tags and datasets are chosen through them
            connection.execute("create temp table kept_inputs on commit drop as table kept")
        else:
            connection.execute(f"truncate pg_temp.in_{table.name}")
            connection.execute(f"insert into pg_temp.in_{table.name} ({names}) select {names} from kept")
        connection.execute("drop table kept")
    names = ", ".join(f'"{name}"' for name in known["inputs"])
    connection.execute("truncate pg_temp.in_inputs")
    connection.execute(f"insert into pg_temp.in_inputs ({names}) select {names} from kept_inputs")
    connection.execute(
        "delete from pg_temp.in_objects o where not ("
        " (o.kind = 'run' and o.owner in (select id from pg_temp.archive_run))"
        " or (o.kind = 'model' and o.owner in (select id from pg_temp.archive_model)))"
    )


def _targets(connection: psycopg.Connection[Any], roots: Roots) -> dict[tuple[str, str], Place]:
    """Where the artifacts of each thing go. Raises `BadInput` for one that has no place here."""
    found: dict[tuple[str, str], Place] = {}
    for kind, own, uri in connection.execute(
        "select distinct o.kind, o.owner, u.uri from pg_temp.in_objects o"
        " join pg_temp.in_uri u on u.kind = o.kind and u.id = o.owner"
    ).fetchall():
        place = roots.place(uri, own)
        if not isinstance(place, Place):
            raise BadInput(
                f"the artifacts of {kind} {own} have no place here: {place}",
                remedy="make the experiment first, so that it has a location of this platform; or give the "
                "store that its location names",
            )
        found[kind, own] = place
    return found


def _compare(connection: psycopg.Connection[Any], known: dict[str, dict[str, str]], found: Restored) -> None:
    """Take out what is here exactly as archived. Raises `BadInput` where something is here and differs."""
    present = {
        (kind, row[0]) for kind, query in _PRESENT.items() for row in connection.execute(query).fetchall()
    }
    if not present:
        return
    # Rows that two things share are looked at one by one: they go with either, and come back with either.
    archived = tables.fingerprints(connection, known, LOADED, shared=False)
    here = tables.fingerprints(connection, known, PUBLIC, shared=False)
    differing = {thing for thing in present if archived[thing] != here[thing]}
    # A version lives on in the registry while its run is away: what it is now is not overwritten.
    newer = [own for kind, own in differing if kind == "version"]
    for table in ("model_version_tags", "model_versions"):
        found.left_out[table] += connection.execute(
            f"delete from pg_temp.in_{table} t where {tables.VERSION} = any(%s)", (newer,)
        ).rowcount
    connection.execute("delete from pg_temp.archive_version where id = any(%s)", (newer,))
    present -= {("version", own) for own in newer}
    other = sorted(" ".join(thing) for thing in differing & present)
    other += [name for table, key in _CLASHING.items() for name in _clashes(connection, table, key, known)]
    if other:
        names = ", ".join(other[:_MOST])
        raise BadInput(
            f"{len(other)} of these exist here and differ from the archive: {names}",
            remedy="what is in quarantine comes back by `mlplatform retention undo`; "
            "else delete them first, or restore others alone with --run",
        )
    found.there = Counter(kind for kind, _ in present)


_PRESENT = {
    "run": "select r.run_uuid from public.runs r join pg_temp.archive_run a on a.id = r.run_uuid",
    "model": "select m.model_id from public.logged_models m"
    " join pg_temp.archive_model a on a.id = m.model_id",
    "trace": "select t.request_id from public.trace_info t"
    " join pg_temp.archive_trace a on a.id = t.request_id",
    "version": "select a.id from public.model_versions t"
    f" join pg_temp.archive_version a on a.id = {tables.VERSION}",
}


#: Shared tables whose rows say more than their primary key does -> what names a row.
_CLASHING = {"logged_model_metrics": "model_id", "assessments": "assessment_id"}


def _clashes(
    connection: psycopg.Connection[Any], table: str, name: str, known: dict[str, dict[str, str]]
) -> list[str]:
    """Rows that are here under the same primary key with other values."""
    same = " and ".join(f"p.{column} = t.{column}" for column in tables.SHARED[table])
    rows = [", ".join(f'{which}."{column}"' for column in known[table]) for which in "tp"]
    found = connection.execute(
        f"select t.{name} from pg_temp.in_{table} t join public.{table} p on {same}"
        f" where row({rows[0]}) is distinct from row({rows[1]}) limit {_MOST}"
    )
    return [f"{table} {row[0]}" for row in found]


def _upload(
    connection: psycopg.Connection[Any],
    store: ObjectStore,
    manifest: Manifest,
    roots: Roots,
    targets: dict[tuple[str, str], Place],
    found: Restored,
    say: Callable[[str], None],
) -> None:
    """Every artifact that is not there yet. Raises `Corrupted` for one that is not what was archived, and
    `BadInput` for one that is here and differs."""

    stores = roots.all
    occupied = {
        Place(root, prefix)
        for root, target in stores.items()
        for prefix, objects, _ in walk(target, sorted({p.prefix for p in targets.values() if p.root == root}))
        if objects
    }

    def put(row: tuple[Any, ...]) -> tuple[bool, int]:
        kind, own, path, file, size, digest = row
        place = targets[kind, own]
        target, key = stores[place.root], place.prefix + path
        there = digest_of(target, key) if place in occupied else None
        if there is None:
            copied = copy(store, manifest.folder + file, target, key, size, (size, digest))
            if copied is None:
                raise Corrupted(f"{store.uri}/{manifest.folder}{file} is missing", remedy=REMEDY)
            return True, size
        if there != (size, digest):
            raise BadInput(
                f"{target.uri}/{key} exists and differs from the archive",
                remedy="look at it, and delete it first",
            )
        return False, size

    def rows() -> Iterator[tuple[Any, ...]]:
        with connection.transaction(), connection.cursor(name="objects") as cursor:
            cursor.execute("select kind, owner, path, file, bytes, sha256 from pg_temp.in_objects")
            while some := cursor.fetchmany(1000):
                yield from some

    for new, size in parallel(put, rows(), WORKERS):
        found.objects += new
        found.bytes += size if new else 0
        found.objects_there += not new
        say(f"{found.objects + found.objects_there:,} of {manifest.objects:,} objects")


def _drop_parentless(connection: psycopg.Connection[Any], found: Restored) -> None:
    """Leave out what belongs to something that is neither here nor coming: an assessment of a run's on a
    trace that is gone, metrics of another run's model."""
    loaded = {table.name for table in TABLES}
    for table in TABLES:
        for column, parent, key in table.parents:
            schemas = [PUBLIC, LOADED] if parent in loaded else [PUBLIC]
            pairs = zip(column.split(","), key.split(","), strict=True)
            same = " and ".join(f"p.{theirs} = t.{ours}" for ours, theirs in pairs)
            absent = " and ".join(
                f"not exists (select from {schema}{parent} p where {same})" for schema in schemas
            )
            found.left_out[table.name] += connection.execute(
                f"delete from pg_temp.in_{table.name} t where {absent}"
            ).rowcount
    alone = f"not exists (select from pg_temp.in_model_versions t where {tables.VERSION} = a.id)"
    connection.execute(f"delete from pg_temp.archive_version a where {alone}")


def _insert(connection: psycopg.Connection[Any], known: dict[str, dict[str, str]], found: Restored) -> None:
    """Insert what is not there; note that no policy chooses it again, and that its objects stay."""
    for table in TABLES:
        if table.name in ("experiments", "experiment_tags"):
            continue  # fit() has seen to them
        names = ", ".join(f'"{name}"' for name in known[table.name])
        found.rows[table.name] += connection.execute(
            f"insert into public.{table.name} ({names}) select {names} from pg_temp.in_{table.name}"
            " on conflict do nothing"
        ).rowcount
    for kind in ("run", "model", "trace", "version"):
        row = connection.execute(f"select count(*) from pg_temp.archive_{kind}").fetchone()
        found.things[kind] = (row[0] if row else 0) - found.there[kind]
    for kind in ("run", "logged model", "trace", "version"):
        connection.execute(
            "update mlplatform.purged p set state = 'done', problem = 'restored from an archive'"
            f" from pg_temp.archive_{tables.KINDS[kind]} a where p.kind = %s and p.id = a.id",
            (kind,),
        )
    for kind in ("run", "logged model", "version"):
        connection.execute(
            "insert into mlplatform.quarantine (kind, id, policy, rule, kept)"
            f" select %s, id, 'archive', 'restored', true from pg_temp.archive_{tables.KINDS[kind]}"
            " on conflict (kind, id) do update set stamp = null, kept = true",
            (kind,),
        )
    for family, rollups in _ROLLUPS.items():
        connection.execute(
            "insert into public.sql_trace_rollup_rebuild_queue (experiment_id, rollup_day, rollup_family)"
            " select distinct r.experiment_id, r.rollup_day, %s from pg_temp.in_trace_info t"
            f" join public.{rollups} r on r.experiment_id = t.experiment_id and r.rollup_day between"
            " (to_timestamp(t.timestamp_ms / 1000) at time zone 'utc')::date"
            " and (to_timestamp(t.timestamp_ms / 1000) at time zone 'utc')::date + 1 order by 1, 2"
            " on conflict do nothing",
            (family,),
        )


#: Daily sums that are made anew for the days of restored traces, as retention has them after a purge.
_ROLLUPS = {
    "trace_metric": "sql_trace_metric_daily_rollups",
    "span_cost": "sql_span_cost_daily_rollups",
    "assessment": "sql_assessment_daily_rollups",
}
