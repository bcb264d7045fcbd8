"""Fitting loaded rows to this platform: ids of experiments and datasets, artifact URIs, the stage of life."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    import psycopg

#: Loaded tables with an experiment's id.
_OF_EXPERIMENT = (
    "experiments",
    "experiment_tags",
    "datasets",
    "runs",
    "logged_models",
    "logged_model_params",
    "logged_model_tags",
    "logged_model_metrics",
    "trace_info",
    "spans",
    "assessments",
)
#: runs.artifact_uri is varchar(200), logged_models.artifact_location varchar(1000), trace_tags.value 8000.
_LONGEST = {"run": 200, "model": 1000, "trace": 8000, "trace-archive": 8000}

_URIS = """
create temp table if not exists in_uri (kind text, id text, old text, uri text, experiment_id integer);
truncate pg_temp.in_uri;
insert into pg_temp.in_uri
select 'run', run_uuid, artifact_uri, artifact_uri, experiment_id from pg_temp.in_runs
union all select 'model', model_id, artifact_location, artifact_location, experiment_id
from pg_temp.in_logged_models
union all select case g.key when 'mlflow.artifactLocation' then 'trace' else 'trace-archive' end,
  g.request_id, g.value, g.value, t.experiment_id
from pg_temp.in_trace_tags g join pg_temp.in_trace_info t using (request_id)
where g.key in ('mlflow.artifactLocation', 'mlflow.trace.archiveLocation');
delete from pg_temp.in_uri where coalesce(old, '') = '';
"""
#: Where MLflow puts what has no location of its own (mlflow/store/tracking/sqlalchemy_store.py).
_OWN_PATH = (
    "case u.kind when 'run' then '/' || u.id || '/artifacts'"
    " when 'model' then '/models/' || u.id || '/artifacts'"
    " when 'trace' then '/traces/' || u.id || '/artifacts' else '/traces/' || u.id || '/archive' end"
)


def fit(connection: psycopg.Connection[Any], *, same: bool) -> dict[str, str]:
    """Make the loaded rows such as belong here; ids of experiments as archived -> here.

    An experiment is found by workspace and name. One that is not here is made, active: under its own id where
    this is the `same` installation as the archive's, else under a new one, since a grant of somebody else's
    may name the old. Raises `BadInput` where an artifact URI would be too long.
    """
    connection.execute(_URIS)
    connection.execute(
        "create temp table if not exists in_home (old integer primary key, new integer, was text, is_ text)"
    )
    connection.execute("truncate pg_temp.in_home")
    homes: dict[str, str] = {}
    rows = connection.execute(
        "select experiment_id, name, workspace, artifact_location from pg_temp.in_experiments e"
        " join pg_temp.archive_experiment a on a.id = e.experiment_id::text order by 1"
    ).fetchall()
    for old, name, workspace, was in rows:
        new, location = _home(connection, old, name, workspace, was, same=same)
        homes[str(old)] = str(new)
        connection.execute(
            "insert into pg_temp.in_home values (%s, %s, %s, %s)", (old, new, was or "", location)
        )
    _move(connection)
    _datasets(connection)
    for table in ("runs", "logged_models"):
        connection.execute(
            f"update pg_temp.in_{table} set lifecycle_stage = 'active'"
            f"{', deleted_time = null' if table == 'runs' else ''} where lifecycle_stage = 'deleted'"
        )
    connection.execute("truncate pg_temp.archive_experiment")  # those ids are the old ones
    return homes


def _home(
    connection: psycopg.Connection[Any],
    old: int,
    name: str,
    workspace: str,
    was: str | None,
    *,
    same: bool,
) -> tuple[int, str]:
    """An experiment's id and artifact location here."""
    row = connection.execute(
        "select experiment_id, artifact_location from public.experiments"
        " where (%s and experiment_id = %s) or (workspace = %s and name = %s)"
        " order by experiment_id = %s desc",
        (same, old, workspace, name, old if same else None),
    ).fetchone()
    if row is not None:
        return row[0], row[1] or ""
    free = "select not exists (select from public.experiments where experiment_id = %s)"
    taken = connection.execute(free, (old,)).fetchone() != (True,)
    if same and not taken:
        new = old
    else:
        row = connection.execute(
            "select nextval(pg_get_serial_sequence('public.experiments', 'experiment_id'))"
        ).fetchone()
        new = row[0] if row else old
    location = was or ""
    if new != old and location.rsplit("/", 1)[-1] == str(old):
        location = location[: -len(str(old))] + str(new)
    connection.execute(
        "insert into public.experiments (experiment_id, name, artifact_location, lifecycle_stage,"
        " creation_time, last_update_time, workspace) select %s, name, %s, 'active', creation_time,"
        " last_update_time, workspace from pg_temp.in_experiments where experiment_id = %s",
        (new, location, old),
    )
    connection.execute(
        "insert into public.experiment_tags (key, value, experiment_id)"
        " select key, value, %s from pg_temp.in_experiment_tags where experiment_id = %s",
        (new, old),
    )
    return new, location


def _move(connection: psycopg.Connection[Any]) -> None:
    """New ids of experiments into every row, and the artifact URIs that follow from their locations."""
    connection.execute(
        "update pg_temp.in_uri u set uri = case when starts_with(u.old, h.was || '/')"
        f" then h.is_ || substr(u.old, length(h.was) + 1) else h.is_ || {_OWN_PATH} end"
        " from pg_temp.in_home h where h.old = u.experiment_id and h.was is distinct from h.is_"
    )
    for kind, longest in _LONGEST.items():
        row = connection.execute(
            "select id, uri from pg_temp.in_uri where kind = %s and length(uri) > %s limit 1", (kind, longest)
        ).fetchone()
        if row is not None:
            raise BadInput(
                f"the artifacts of {kind} {row[0]} would be at {row[1]}, which is longer than the {longest} "
                "characters that MLflow has for it",
                remedy="make the experiment first, with a shorter artifact location",
            )
    moved = " from pg_temp.in_uri u where u.uri <> u.old and"
    for statement in (
        f"update pg_temp.in_runs t set artifact_uri = u.uri{moved} u.kind = 'run' and u.id = t.run_uuid",
        (
            f"update pg_temp.in_logged_models t set artifact_location = u.uri{moved} u.kind = 'model'"
            " and u.id = t.model_id"
        ),
        (
            f"update pg_temp.in_trace_tags t set value = u.uri{moved} u.kind = case t.key"
            " when 'mlflow.artifactLocation' then 'trace'"
            " when 'mlflow.trace.archiveLocation' then 'trace-archive'"
            " end and u.id = t.request_id"
        ),
        *(
            f"update pg_temp.in_model_versions t"
            f" set {column} = u.uri || substr(t.{column}, length(u.old) + 1)"
            f"{moved} (t.{column} = u.old or starts_with(t.{column}, u.old || '/'))"
            for column in ("source", "storage_location")
        ),
        *(
            f"update pg_temp.in_{table} t set experiment_id = h.new from pg_temp.in_home h"
            " where h.old = t.experiment_id and h.old <> h.new"
            for table in _OF_EXPERIMENT
        ),
    ):
        connection.execute(statement)


def _datasets(connection: psycopg.Connection[Any]) -> None:
    """A dataset that is here by its experiment, name and digest is used as it is, under its own id."""
    connection.execute(
        "create temp table in_dataset on commit drop as select i.dataset_uuid as old, d.dataset_uuid as new"
        " from pg_temp.in_datasets i join public.datasets d using (experiment_id, name, digest)"
        " where i.dataset_uuid <> d.dataset_uuid"
    )
    for statement in (
        (
            "update pg_temp.in_inputs t set source_id = d.new from in_dataset d"
            " where t.source_type = 'DATASET' and t.source_id = d.old"
        ),
        (
            "update pg_temp.in_logged_model_metrics t set dataset_uuid = d.new from in_dataset d"
            " where t.dataset_uuid = d.old"
        ),
        (
            "update pg_temp.in_datasets t set dataset_uuid = d.new from in_dataset d"
            " where t.dataset_uuid = d.old"
        ),
    ):
        connection.execute(statement)
