"""An export of 10,000 runs, beside MLflow's own data frame of the same runs written to the same format."""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

import pandas
import psycopg

from mlflow_platform.local import Stack
from tests.bench.scale import report, run

RUNS = int(os.environ.get("BENCH_RUNS", "10000"))
ROUNDS = 3
#: What is promised: no slower, and memory that does not grow with the runs as theirs does.
MOST_TIME, MOST_MEMORY = 1.1, 1.0

_THEIRS = """
import sys, mlflow
mlflow.search_runs(experiment_names=["exported"], max_results=10**6).to_parquet(sys.argv[1])
"""


def main(environment: dict[str, str], scratch: Path) -> bool:
    """Run it against the fresh stack below `scratch`; whether every promise held."""
    where = Stack(scratch / "stack").endpoints()
    with psycopg.connect(where.database_uri.replace("+psycopg", ""), autocommit=True) as sql:
        _fill(sql)
    ours, theirs = [], []
    files = {name: scratch / f"{name}.parquet" for name in ("ours", "theirs")}
    export = [sys.executable, "-m", "mlflow_platform.cli", "runs", "export", "-e", "exported"]
    for _ in range(ROUNDS):
        ours.append(run([*export, str(files["ours"])], environment))
        theirs.append(run([sys.executable, "-c", _THEIRS, str(files["theirs"])], environment))
    frames = {name: pandas.read_parquet(file).set_index("run_id") for name, file in files.items()}
    columns = [c for c in frames["theirs"] if c.startswith(("params.", "metrics."))]
    assert len(columns) == 30
    assert frames["ours"][columns].sort_index().equals(frames["theirs"][columns].sort_index())
    mine, other = statistics.median(r.seconds for r in ours), statistics.median(r.seconds for r in theirs)
    print(f"{RUNS:,} runs to Parquet: {mine:.1f} s, mlflow.search_runs {other:.1f} s (medians of {ROUNDS})")
    good = report("time, ours / MLflow's", mine / other, mine / other <= MOST_TIME, f"<= {MOST_TIME}")
    memory = max(r.memory for r in ours) / max(r.memory for r in theirs)
    return good & report("memory, ours / MLflow's", memory, memory <= MOST_MEMORY, f"<= {MOST_MEMORY}")


def _fill(sql: psycopg.Connection[tuple[object, ...]]) -> None:
    """Runs with 10 params and 20 metrics each."""
    row = sql.execute(
        "insert into experiments (name, artifact_location, lifecycle_stage, creation_time, last_update_time)"
        " values ('exported', 'mlflow-artifacts:/exported', 'active', 0, 0) returning experiment_id"
    ).fetchone()
    assert row is not None
    sql.execute(
        "insert into runs (run_uuid, name, status, start_time, end_time, lifecycle_stage, experiment_id,"
        " artifact_uri, source_type, user_id) select md5(i::text), 'r', 'FINISHED', i, i, 'active', %s, 'x',"
        " 'LOCAL', 'u' from generate_series(1, %s) i",
        (row[0], RUNS),
    )
    every = "from generate_series(1, %s) i, generate_series(1, {}) s"
    sql.execute(
        "insert into latest_metrics (key, value, timestamp, run_uuid, step, is_nan)"
        f" select 'm' || s, i / s::float, 1, md5(i::text), 1, false {every.format(20)}",
        (RUNS,),
    )
    sql.execute(
        "insert into params (key, value, run_uuid)"
        f" select 'p' || s, i || '-' || s, md5(i::text) {every.format(10)}",
        (RUNS,),
    )
    sql.execute("analyze")
