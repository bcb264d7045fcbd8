"""`search_runs` for one row in an experiment of 100,000 runs: the stock schema, and with our indexes."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import psycopg

from mlflow_platform.local import Stack
from mlflow_platform.server.schemas import INDEXES, build_indexes
from tests.bench.bare import Bare
from tests.bench.scale import report

RUNS = int(os.environ.get("BENCH_RUNS", "100000"))
ASKED = 30
#: What is promised of the median.
LEAST = 2.0


def main(environment: dict[str, str], scratch: Path) -> bool:
    """Run it against the fresh stack below `scratch`; whether the promise held."""
    os.environ.update(environment)
    where = Stack(scratch / "stack").endpoints()
    with psycopg.connect(where.database_uri.replace("+psycopg", ""), autocommit=True) as sql:
        found = sql.execute(
            "insert into experiments (name, artifact_location, lifecycle_stage, creation_time,"
            " last_update_time) values ('search', 'mlflow-artifacts:/search', 'active', 0, 0)"
            " returning experiment_id"
        ).fetchone()
        assert found is not None
        sql.execute(
            "insert into runs (run_uuid, name, status, start_time, end_time, lifecycle_stage, experiment_id,"
            " artifact_uri, source_type, user_id) select replace(gen_random_uuid()::text, '-', ''), 'r',"
            " 'FINISHED', i, i, 'active', %s, 'x', 'LOCAL', 'u' from generate_series(1, %s) i",
            (found[0], RUNS),
        )
        sql.execute("vacuum analyze runs")
        for index in INDEXES:
            sql.execute(f"drop index if exists {index}")
        bare = Bare()
        stock = median(bare, found[0])
        build_indexes(sql)
        ours = median(bare, found[0])
    medians = f"{stock * 1000:.1f} ms stock, {ours * 1000:.1f} ms with indexes"
    print(f"search_runs for 1 of {RUNS:,} runs: p50 {medians}")
    return report("p50 stock / with indexes", stock / ours, stock / ours >= LEAST, f">= {LEAST}")


def median(bare: Bare, experiment: int) -> float:
    """Seconds of the median of some searches."""
    body = f'{{"experiment_ids": ["{experiment}"], "max_results": 1}}'.encode()
    answers = []
    for _ in range(ASKED):
        start = time.perf_counter()
        assert len(bare.send("POST", "runs/search", body)["runs"]) == 1
        answers.append(time.perf_counter() - start)
    return statistics.median(answers)
