"""What must stay, whatever a rule says: asked when choosing, and again inside the purge's transaction.

A version need not bear its run's id: one made from a run's URI has none, and a copied version keeps the
original's storage location. Every path that MLflow makes holds the id, so any version whose run, source or
storage location holds the id of a run or logged model protects it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

#: The ids in versions that are not deleted. 32 hexadecimal digits: a run's id (mlflow/store/tracking/
#: sqlalchemy_store.py, `create_run`) and what follows `m-` in a logged model's (`create_logged_model`).
#: `Deleted_Internal`: mlflow/entities/model_registry/model_version_stages.py, STAGE_DELETED_INTERNAL.
_TOKENS = """
token as materialized (
  select distinct t.found[1] as id from public.model_versions v
  cross join lateral regexp_matches(
    concat_ws(' ', v.run_id, v.source, v.storage_location), '[0-9a-f]{32}', 'g') as t(found)
  where v.current_stage is distinct from 'Deleted_Internal'),
odd as materialized (select id from wanted where id !~ '^(m-)?[0-9a-f]{32}$'),
named as (
  select w.id from wanted w join token t
    on t.id = case when w.id like 'm-%%' then substr(w.id, 3) else w.id end
  union
  select o.id from odd o join public.model_versions v
    on strpos(concat_ws(' ', v.run_id, v.source, v.storage_location), o.id) > 0
  where v.current_stage is distinct from 'Deleted_Internal')
"""

_RUNS = f"""
with wanted(id) as materialized (select unnest(%(ids)s::text[])),
{_TOKENS},
made as materialized (
  select model_id, source_run_id as run_id, artifact_location from public.logged_models
  where source_run_id = any(%(ids)s)),
measured as materialized (
  select distinct run_id, model_id from public.logged_model_metrics where run_id = any(%(ids)s))
select id, 'a model version names it' from named
union all
select m.run_id, 'a model version names its logged model' from made m
  join token t on t.id = substr(m.model_id, 3)
union all
select m.run_id, 'it carries metrics of a registered model' from measured m
  join token t on t.id = substr(m.model_id, 3)
union all
select run_uuid, 'pinned' from public.tags
  where run_uuid = any(%(ids)s) and key = %(pin)s and lower(value) is distinct from 'false'
union all
select m.run_id, 'its logged model is pinned' from made m join public.logged_model_tags t
  on t.model_id = m.model_id and t.tag_key = %(pin)s and lower(t.tag_value) is distinct from 'false'
union all
select run_uuid, 'under way' from public.runs
  where run_uuid = any(%(ids)s) and status in ('RUNNING', 'SCHEDULED')
  and not coalesce(start_time <= %(abandoned)s, false)
union all
select t.value, 'parent of a live run' from public.tags t join public.runs c on c.run_uuid = t.run_uuid
  where t.key = 'mlflow.parentRunId' and t.value = any(%(ids)s) and c.lifecycle_stage = 'active'
  and not (%(choosing)s and exists (
    select from pg_temp.chosen x where x.kind = 'run' and x.id = c.run_uuid))
union all
select m.run_id, 'another run uses its logged model' from made m
  join public.inputs i on i.destination_type = 'MODEL_INPUT' and i.destination_id = m.model_id
  join public.runs r on r.run_uuid = i.source_id and r.lifecycle_stage = 'active'
  where i.source_type = 'RUN_INPUT' and r.run_uuid <> m.run_id
union all
select m.run_id, 'another run measures its logged model' from made m
  join public.logged_model_metrics x on x.model_id = m.model_id and x.run_id <> m.run_id
  join public.runs r on r.run_uuid = x.run_id and r.lifecycle_stage = 'active'
"""

_MODELS = f"""
with wanted(id) as materialized (select unnest(%(ids)s::text[])),
{_TOKENS}
select id, 'a model version names it' from named
union all
select model_id, 'pinned' from public.logged_model_tags
  where model_id = any(%(ids)s) and tag_key = %(pin)s and lower(tag_value) is distinct from 'false'
union all
select i.destination_id, 'a run uses it' from public.inputs i
  join public.runs r on r.run_uuid = i.source_id and r.lifecycle_stage = 'active'
  where i.destination_type = 'MODEL_INPUT' and i.destination_id = any(%(ids)s) and i.source_type = 'RUN_INPUT'
"""

_TRACES = """
select request_id, 'pinned' from public.trace_tags
where request_id = any(%(ids)s) and key = %(pin)s and lower(value) is distinct from 'false'
"""

_STATEMENTS = {"run": _RUNS, "logged model": _MODELS, "trace": _TRACES}


def protected(
    connection: psycopg.Connection[Any],
    kind: str,
    ids: Sequence[str],
    *,
    pin: str,
    abandoned: int | None = None,
    choosing: bool = False,
) -> dict[str, str]:
    """Those of these ids that must stay, each with a reason.

    `abandoned`: runs that began before (milliseconds since 1970) do not count as under way. `choosing`: a
    child that is itself among the chosen does not count as a live one.
    """
    if not ids:
        return {}
    rows = connection.execute(
        _STATEMENTS[kind], {"ids": list(ids), "pin": pin, "abandoned": abandoned, "choosing": choosing}
    )
    return dict(rows.fetchall())


def named_by_versions(connection: psycopg.Connection[Any], ids: Sequence[str]) -> set[str]:
    """Those of these ids of runs or logged models that a model version names."""
    statement = (
        f"with wanted(id) as materialized (select unnest(%(ids)s::text[])), {_TOKENS} select id from named"
    )
    return {row[0] for row in connection.execute(statement, {"ids": list(ids)})}
