"""Metrics through the platform's store leave the same rows in Postgres as through MLflow's own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from mlflow_platform.local import Stack
from mlflow_platform.server.idstore import tracking_store

#: Few different ones, so that keys, steps and whole metrics meet again.
METRICS = st.builds(
    Metric,
    key=st.sampled_from(["loss", "acc", "l/r"]),
    value=st.sampled_from([0.0, 1.0, -2.5, math.nan, math.inf, -math.inf]),
    timestamp=st.integers(0, 2),
    step=st.integers(-1, 2),
)


class Both:
    """MLflow's store and ours on one database."""

    def __init__(self, uri: str) -> None:
        self.mlflow = SqlAlchemyStore(uri, "/nowhere")
        self.ours: Any = tracking_store(uri, "/nowhere")
        self.experiment = self.mlflow.create_experiment("metrics-by-two-statements")
        self.database = psycopg.connect(uri.replace("postgresql+psycopg", "postgresql"), autocommit=True)

    def run(self) -> str:
        return str(self.mlflow.create_run(self.experiment, "me", 0, [], "r").info.run_id)

    def rows(self, run: str) -> list[list[tuple[Any, ...]]]:
        columns = "key, value, timestamp, step, is_nan"
        return [
            self.database.execute(
                f"select {columns} from {t} where run_uuid = %s order by {columns}", (run,)
            ).fetchall()
            for t in ("metrics", "latest_metrics")
        ]


@pytest.fixture(scope="module")
def both(stack: Stack) -> Iterator[Both]:
    stores = Both(stack.endpoints().database_uri)
    yield stores
    stores.database.close()
    for store in (stores.mlflow, stores.ours):
        store.engine.dispose()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(METRICS, max_size=8), min_size=1, max_size=4))
def test_any_batches_leave_the_same_rows(both: Both, batches: list[list[Metric]]) -> None:
    expected, found = both.run(), both.run()
    for batch in batches:
        both.mlflow.log_batch(expected, batch, [], [])
        both.ours.log_batch(found, batch, [], [])
    assert both.rows(found) == both.rows(expected)


def test_a_single_metric_and_the_run_as_it_is_read(both: Both) -> None:
    run = both.run()
    for metric in (Metric("a", 1.5, 10, 1), Metric("a", 2.5, 5, 0), Metric("a", math.nan, 11, 2)):
        both.ours.log_metric(run, metric)
    assert math.isnan(both.ours.get_run(run).data.metrics["a"])
    assert sorted(m.step for m in both.ours.get_metric_history(run, "a")) == [0, 1, 2]


def test_many_at_once_on_the_same_keys(both: Both) -> None:
    run = both.run()

    def log(client: int) -> None:
        for step in range(10):
            keys = [f"k{(i * (1 if client % 2 else -1)) % 20}" for i in range(20)]
            both.ours.log_batch(run, [Metric(k, client, 0, step) for k in keys], [], [])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(log, range(8)))
    metrics, latest = both.rows(run)
    assert len(metrics) == 8 * 10 * 20
    assert {(value, step) for _, value, _, step, _ in latest} == {(7.0, 9)}


@pytest.mark.parametrize(
    "metric",
    [Metric("bad key!*", 1.0, 0, 0), Metric("a", "x", 0, 0)],
    ids=["key", "value"],
)
def test_what_mlflow_refuses_is_refused_in_its_words(both: Both, metric: Metric) -> None:
    run, words = both.run(), []
    for store in (both.mlflow, both.ours):
        with pytest.raises(MlflowException) as refused:
            store.log_batch(run, [metric], [], [])
        words.append((refused.value.error_code, refused.value.message))
    assert words[0] == words[1]
    assert both.rows(run) == [[], []]


def test_what_postgres_refuses_has_its_reason(both: Both) -> None:
    run = both.run()
    with pytest.raises(MlflowException, match="out of range") as refused:
        both.ours.log_batch(run, [Metric("fine", 1.0, 0, 0), Metric("a", 1.0, 0, 2**70)], [], [])
    assert refused.value.get_http_status_code() == 400
    assert both.rows(run) == [[], []]


def test_nothing_is_logged_to_a_deleted_run(both: Both) -> None:
    run = both.run()
    both.mlflow.delete_run(run)
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        both.ours.log_batch(run, [Metric("a", 1.0, 0, 0)], [], [])
