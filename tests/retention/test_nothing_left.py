"""After everything deletable is purged, the platform is as one that never had the data: every table, every
object."""

from __future__ import annotations

from typing import Any

from tests.retention.conftest import World, random_id

#: What the rules keep (docs/retention.md): a model's highest version, and what is nobody's experiment's: the
#: gateway's endpoints, evaluation datasets.
KEPT = (
    "registered_models",
    "model_versions",
    "model_definitions",
    "endpoints",
    "endpoint_model_mappings",
    "endpoint_tags",
    "evaluation_datasets",
)
_VALUES = {
    "character varying": "x",
    "text": "x",
    "boolean": False,
    "date": "2020-01-01",
    "json": "{}",
    "bytea": b"x",
}
#: Tables of things in experiments, by what they bear: a foreign key, however far from the experiment, or a
#: column with an id of one.
_OF_EXPERIMENTS = """
with recursive below(id) as (
  select 'public.experiments'::regclass::oid
  union select c.conrelid from pg_constraint c join below b on c.confrelid = b.id where c.contype = 'f')
select b.id::regclass::text from below b
union select c.table_name from information_schema.columns c join information_schema.tables t
  using (table_schema, table_name) where c.table_schema = 'public' and t.table_type = 'BASE TABLE'
  and c.column_name in ('experiment_id', 'run_uuid', 'run_id', 'source_run_id', 'trace_id', 'request_id',
    'model_id', 'dataset_uuid', 'destination_id', 'input_uuid', 'scorer_id', 'item_id')
"""


def test_after_purging_everything_nothing_is_left(world: World) -> None:
    before, objects = world.counts(), in_bucket(world)
    gone = f"{world.name}-gone"
    world.experiment = world.call("experiments/create", name=gone)["experiment_id"]
    fill(world)
    made = world.counts()
    of_experiments = {row[0] for row in world.sql.execute(_OF_EXPERIMENTS)}
    assert {t for t in of_experiments if made[t] <= before[t]} == set(), "tables that this test does not fill"

    world.call("experiments/delete", experiment_id=world.experiment)
    rules = {
        "experiments": {"softDeletedFor": "0s"},
        "modelVersions": {"models": [f"model-{world.experiment}"], "keepLast": 1},
    }
    for _ in range(4):  # versions in quarantine, versions, what they protected, nothing more
        report = world.retain(rules=rules, selector={"experiments": [gone]}, quarantine="0s")
        assert not report.problems
    assert report.empty
    after = world.counts()
    assert {t: n - before[t] for t, n in after.items() if n != before[t]} == dict.fromkeys(KEPT, 1)
    assert in_bucket(world) == objects


def in_bucket(world: World) -> int:
    """Objects of the whole bucket."""
    count, after = 0, None
    while True:
        page = world.store.page("", after)
        count += len(page.found)
        after = page.after
        if after is None:
            return count


def fill(world: World) -> None:
    """One of everything that an experiment may have: by MLflow's API, or the rows that it would write."""
    experiment = int(world.experiment)
    world.call("experiments/set-experiment-tag", experiment_id=world.experiment, key="a", value="b")
    run, trace = world.run(), world.trace()
    model = world.logged_model(run)
    world.logged_model()
    world.call("runs/log-inputs", run_id=run, datasets=[], models=[{"model_id": model}])
    registered = f"model-{experiment}"
    for source in (f"{world.uri(run)}/model", f"models:/{model}", "s3://elsewhere/x"):
        world.version(registered, source, tags=[{"key": "a", "value": "b"}])
    last = world.call("model-versions/delete-tag", "DELETE", name=registered, version="3", key="a")
    assert last == {}

    span = world.one("select span_id from spans where trace_id = %s", trace)
    row(world, "span_metrics", trace_id=trace, span_id=span)
    row(world, "trace_metrics", request_id=trace)
    source = f'{{"mlflow.assessment.sourceRunId": "{run}"}}'
    row(
        world,
        "assessments",
        assessment_id=random_id(world.sql),
        trace_id=trace,
        experiment_id=experiment,
        trace_timestamp_ms=1,
        assessment_metadata=source,
    )
    dataset, queue, schema = (random_id(world.sql) for _ in range(3))
    row(world, "evaluation_datasets", dataset_id=dataset, name=dataset)
    links = [("trace", trace, "run", run), ("evaluation_dataset", dataset, "experiment", world.experiment)]
    for kind, one, other_kind, other in links:
        row(
            world,
            "entity_associations",
            association_id=random_id(world.sql),
            source_type=kind,
            source_id=one,
            destination_type=other_kind,
            destination_id=other,
        )
    row(world, "label_schemas", schema_id=schema, experiment_id=experiment)
    row(world, "review_queues", queue_id=queue, experiment_id=experiment)
    row(world, "review_queue_items", queue_id=queue, item_type="trace", item_id=trace)
    row(world, "review_queue_label_schemas", queue_id=queue, schema_id=schema)
    row(world, "review_queue_users", queue_id=queue)
    row(world, "issues", issue_id=random_id(world.sql), experiment_id=experiment, source_run_id=run)
    fill_gateway(world, experiment)
    for table in ("sql_trace_metric", "sql_span_cost", "sql_assessment"):
        row(world, f"{table}_daily_rollups", experiment_id=experiment)
    row(world, "sql_trace_rollup_rebuild_queue", experiment_id=experiment)


def fill_gateway(world: World, experiment: int) -> None:
    """A scorer with an online configuration, that judges by an endpoint and guards it."""
    scorer, endpoint, definition, guardrail = (random_id(world.sql) for _ in range(4))
    row(world, "scorers", experiment_id=experiment, scorer_id=scorer)
    row(world, "scorer_versions", scorer_id=scorer, scorer_version=1)
    row(
        world,
        "online_scoring_configs",
        online_scoring_config_id=random_id(world.sql),
        scorer_id=scorer,
        experiment_id=experiment,
    )
    row(world, "model_definitions", model_definition_id=definition, name=definition)
    row(world, "endpoints", endpoint_id=endpoint, name=endpoint, experiment_id=experiment)
    row(
        world,
        "endpoint_model_mappings",
        mapping_id=random_id(world.sql),
        endpoint_id=endpoint,
        model_definition_id=definition,
    )
    row(world, "endpoint_tags", endpoint_id=endpoint)
    row(world, "endpoint_bindings", endpoint_id=endpoint, resource_type="scorer", resource_id=scorer)
    row(
        world,
        "guardrails",
        guardrail_id=guardrail,
        scorer_id=scorer,
        scorer_version=1,
        action_endpoint_id=endpoint,
    )
    row(world, "guardrail_configs", endpoint_id=endpoint, guardrail_id=guardrail)


def row(world: World, table: str, **given: Any) -> None:
    """Insert a row; columns that need a value and are not given get any."""
    needed = world.sql.execute(
        "select column_name, data_type from information_schema.columns where table_schema = 'public'"
        " and table_name = %s and is_nullable = 'NO' and column_default is null and is_generated = 'NEVER'"
        " and is_identity = 'NO'",
        (table,),
    ).fetchall()
    values = {name: _VALUES.get(kind, 1) for name, kind in needed} | given
    places = ", ".join(["%s"] * len(values))
    world.sql.execute(f"insert into {table} ({', '.join(values)}) values ({places})", tuple(values.values()))
