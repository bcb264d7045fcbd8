"""Child program, run with an older MLflow: makes its schemas and fills them through its own stores."""

import mlflow.server.auth.db.utils as auth_schema
import sqlalchemy
from mlflow.entities import Metric, Param, RunTag, TraceInfo, TraceLocation, TraceState, ViewType
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore as Users
from mlflow.store.db.utils import _initialize_tables
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

URI = "postgresql+psycopg://"
#: What COPY's text must escape, and what MLflow stores in its own way.
AWKWARD = "tab\there, newline\nhere, back\\slash, \\N, quote's, 日本語 🙂"


def main() -> None:
    engine = sqlalchemy.create_engine(URI)
    _initialize_tables(engine)
    auth_schema.migrate(engine, "head")
    engine.dispose()
    tracking, registry, users = Tracking(URI, "s3://mlflow/old"), Registry(URI), Users()
    users.init_db(URI)
    users.create_user("old-admin", "an-old-password", is_admin=True)
    users.create_user("old-user", "an-old-password")
    for number in range(3):
        experiment = tracking.create_experiment(f"old-{number} {AWKWARD[:20]}")
        users.create_experiment_permission(experiment, "old-user", "EDIT")
        for _ in range(5):
            run = tracking.create_run(experiment, "old-user", 1, [RunTag("note", AWKWARD)], "a run")
            values = [0.1, float("nan"), float("inf"), -float("inf"), 1e-300]
            metrics = [Metric("m", v, 1_700_000_000_000 + s, s) for s, v in enumerate(values)]
            tracking.log_batch(run.info.run_id, metrics, [Param("p", AWKWARD)], [])
        trace(tracking, experiment, f"tr-{number}")
    tracking.delete_run(run.info.run_id)
    registry.create_registered_model("old-model", description=AWKWARD)
    for _ in range(2):
        registry.create_model_version(
            "old-model", run.info.artifact_uri, run.info.run_id, tags=[ModelVersionTag("k", AWKWARD)]
        )
    registry.set_registered_model_alias("old-model", "champion", 2)
    assert len(tracking.search_runs(["1", "2", "3"], "", ViewType.ALL)) == 15


def trace(tracking, experiment: str, name: str) -> None:
    tracking.start_trace(
        TraceInfo(
            trace_id=name,
            trace_location=TraceLocation.from_experiment_id(experiment),
            request_time=1_700_000_000_000,
            state=TraceState.OK,
            execution_duration=7,
            tags={"mlflow.traceName": "a trace"},
            trace_metadata={
                "mlflow.trace.session": "a session",
                "mlflow.trace.tokenUsage": '{"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}',
            },
        )
    )


main()
