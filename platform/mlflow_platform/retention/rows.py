"""Which rows belong to runs, logged models, traces and experiments, in an order that the foreign keys allow.

Table -> condition; each `%s` in it is the array of ids. Inputs and associations have no foreign keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg


def delete(
    connection: psycopg.Connection[Any], conditions: dict[str, str], ids: Sequence[Any], rows: Counter[str]
) -> None:
    """Delete by table, in this order; a condition has one place or several for the same array of ids."""
    if not ids:
        return
    for table, condition in conditions.items():
        values = [list(ids)] * condition.count("%s")
        deleted = connection.execute(f"delete from public.{table} where {condition}", values).rowcount
        rows[table] += max(0, deleted)


_ASSOCIATIONS = (
    "(source_type = '{0}' and source_id = any(%s)) or (destination_type = '{0}' and destination_id = any(%s))"
)

#: What hangs on runs, in the order that the foreign keys allow; inputs and associations have none.
RUN_LINKS = {
    "input_tags": "input_uuid in (select input_uuid from public.inputs where (destination_type = 'RUN'"
    " and destination_id = any(%s)) or (source_type in ('RUN_INPUT', 'RUN_OUTPUT') and source_id = any(%s)))",
    "inputs": "(destination_type = 'RUN' and destination_id = any(%s))"
    " or (source_type in ('RUN_INPUT', 'RUN_OUTPUT') and source_id = any(%s))",
    "entity_associations": _ASSOCIATIONS.format("run"),
}
RUN_ROWS = {
    "metrics": "run_uuid = any(%s)",
    "latest_metrics": "run_uuid = any(%s)",
    "params": "run_uuid = any(%s)",
    "tags": "run_uuid = any(%s)",
    **RUN_LINKS,
    "logged_model_metrics": "run_id = any(%s)",
}
MODEL_LINKS = {
    "input_tags": "input_uuid in (select input_uuid from public.inputs where (destination_type in"
    " ('MODEL_INPUT', 'MODEL_OUTPUT') and destination_id = any(%s)))",
    "inputs": "destination_type in ('MODEL_INPUT', 'MODEL_OUTPUT') and destination_id = any(%s)",
    "entity_associations": _ASSOCIATIONS.format("model"),
}
MODEL_ROWS = {
    "logged_model_metrics": "model_id = any(%s)",
    "logged_model_params": "model_id = any(%s)",
    "logged_model_tags": "model_id = any(%s)",
    **MODEL_LINKS,
    "logged_models": "model_id = any(%s)",
}
TRACE_ROWS = {
    "span_metrics": "trace_id = any(%s)",
    "spans": "trace_id = any(%s)",
    "trace_tags": "request_id = any(%s)",
    "trace_request_metadata": "request_id = any(%s)",
    "trace_metrics": "request_id = any(%s)",
    "assessments": "trace_id = any(%s)",
    "review_queue_items": "item_id = any(%s)",
    "entity_associations": _ASSOCIATIONS.format("trace"),
    "trace_info": "request_id = any(%s)",
}
_OF_EXPERIMENT = "experiment_id = any(%s)"
_SCORERS = "(select scorer_id from public.scorers where experiment_id = any(%s))"
EXPERIMENT_ROWS = {
    "spans": _OF_EXPERIMENT,
    "entity_associations": "(source_type = 'experiment' and source_id = any(%s::text[]))"
    " or (destination_type = 'experiment' and destination_id = any(%s::text[]))",
    "guardrail_configs": "guardrail_id in (select guardrail_id from public.guardrails"
    f" where scorer_id in {_SCORERS})",
    "guardrails": f"scorer_id in {_SCORERS}",
    # No foreign key: mlflow/store/tracking/sqlalchemy_store.py, `delete_scorer`.
    "endpoint_bindings": f"resource_type = 'scorer' and resource_id in {_SCORERS}",
    "online_scoring_configs": _OF_EXPERIMENT,
    "scorers": _OF_EXPERIMENT,
    "sql_trace_rollup_rebuild_queue": _OF_EXPERIMENT,
    "sql_trace_metric_daily_rollups": _OF_EXPERIMENT,
    "sql_span_cost_daily_rollups": _OF_EXPERIMENT,
    "sql_assessment_daily_rollups": _OF_EXPERIMENT,
    "input_tags": "input_uuid in (select i.input_uuid from public.inputs i join public.datasets d"
    " on i.source_type = 'DATASET' and i.source_id = d.dataset_uuid where d.experiment_id = any(%s))",
    "inputs": "source_type = 'DATASET' and source_id in (select dataset_uuid from public.datasets"
    " where experiment_id = any(%s))",
    "datasets": _OF_EXPERIMENT,
    "issues": _OF_EXPERIMENT,
    "label_schemas": _OF_EXPERIMENT,
    "review_queues": _OF_EXPERIMENT,
    "experiment_tags": _OF_EXPERIMENT,
    "experiments": _OF_EXPERIMENT,
}
