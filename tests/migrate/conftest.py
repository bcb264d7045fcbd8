"""Sources with something of everything, and what a server says of it: by API, and by digest."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _upgrade_db

from mlflow_platform.adapters.postgres import Database
from mlflow_platform.adapters.s3 import S3Login, S3Store
from mlflow_platform.local import Stack
from mlflow_platform.migrate import staged
from mlflow_platform.migrate.move import Platform
from mlflow_platform.retention.roots import Roots
from tests import old_mlflow
from tests.served import free_port

HERE = Path(__file__).parent
#: That of tests/contract, of an older schema.
OLD = "3.10.1"


@dataclass
class Target:
    """The stack as something to move into."""

    stack: Stack
    platform: Platform
    sql: psycopg.Connection[Any]
    store: S3Store

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.stack.endpoints().tracking_uri, self.stack.endpoints().tracking_uri)

    def one(self, query: str, *values: Any) -> Any:
        row = self.sql.execute(query, values).fetchone()
        return row[0] if row else None

    def counts(self) -> dict[str, Any]:
        """Rows of every table, and objects of the bucket with their times."""
        tables = self.sql.execute(
            "select table_name from information_schema.tables where table_schema = 'public'"
            " and table_type = 'BASE TABLE'"
        ).fetchall()
        found: dict[str, Any] = {t: self.one(f"select count(*) from {t}") for (t,) in tables}
        found["objects"] = self.objects()
        return found

    def objects(self) -> list[tuple[str, Any]]:
        found, after = [], None
        while True:
            page = self.store.page("", after)
            found += [(one.key, one.modified) for one in page.found]
            after = page.after
            if after is None:
                return found


@pytest.fixture
def target(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    where = stack.endpoints()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # a row that the server cannot read stays so
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", where.username)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", where.password)
    login = S3Login(where.s3_endpoint, "us-east-1", where.s3_access_key, where.s3_secret_key)
    store = S3Store(f"s3://{where.s3_bucket}", login)
    platform = Platform(Database(where.database_uri), Roots(store), Database(where.auth_database_uri))
    with psycopg.connect(where.database_uri.replace("+psycopg", ""), autocommit=True) as connection:
        yield Target(stack, platform, connection, store)
    store.close()


def populate(prefix: str, folder: Path, more: Mapping[str, str]) -> None:
    """Fill a source, in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(HERE / "populate.py"), prefix],
        cwd=folder,
        env={**clean(), "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false", **more},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}


@dataclass(frozen=True)
class Source:
    """What `migrate` takes, what a client takes, and the prefix of all names."""

    address: str
    uri: str
    prefix: str
    database: Path | None = None
    """The file behind a server."""


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A database with artifacts beside it."""
    folder = tmp_path_factory.mktemp("sqlite")
    uri, prefix = f"sqlite:///{folder}/mlflow.db", f"lite{time.time_ns()}"
    populate(prefix, folder, {"MLFLOW_TRACKING_URI": uri})
    return Source(uri, uri, prefix)


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """As MLflow 3.10.1 makes it; `uri` is a copy that MLflow has upgraded."""
    folder = tmp_path_factory.mktemp("old")
    file, prefix = folder / "mlflow.db", f"old{time.time_ns()}"
    populate(prefix, folder, old_mlflow.environment(OLD, {"MLFLOW_TRACKING_URI": f"sqlite:///{file}"}))
    shutil.copy(file, folder / "upgraded.db")
    engine = sqlalchemy.create_engine(f"sqlite:///{folder}/upgraded.db")
    _upgrade_db(engine)
    engine.dispose()
    return Source(f"sqlite:///{file}", f"sqlite:///{folder}/upgraded.db", prefix)


@pytest.fixture(scope="session")
def file_store(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The folder is not where it was when artifacts were logged."""
    folder = tmp_path_factory.mktemp("files")
    uri, prefix = (folder / "mlruns").as_uri(), f"files{time.time_ns()}"
    populate(prefix, folder, {"MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_FILE_STORE": "true"})
    return Source(str(folder / "mlruns"), uri, prefix)


@pytest.fixture(scope="session")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """A server that keeps artifacts behind its proxy."""
    folder = tmp_path_factory.mktemp("remote")
    port = free_port()
    arguments = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"]
    arguments += ["--artifacts-destination", str(folder / "artifacts"), "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *arguments],
            cwd=folder,
            env={**clean(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                time.sleep(0.2)
            uri, prefix = f"http://127.0.0.1:{port}", f"remote{time.time_ns()}"
            populate(prefix, folder, {"MLFLOW_TRACKING_URI": uri})
            yield Source(uri, uri, prefix, folder / "server.db")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow's with nothing in it."""
    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    staged.create(file)
    return file


@dataclass
class Small:
    """A little server on SQLite: rows as MLflow writes them, and what a test does to them."""

    file: Path
    prefix: str
    experiment: int = 7

    @property
    def address(self) -> str:
        return f"sqlite:///{self.file}"

    def do(self, statement: str, *values: Any) -> None:
        with contextlib.closing(sqlite3.connect(self.file)) as connection:
            connection.execute(statement, values)
            connection.commit()

    def run(self, experiment: int | None = None, *, artifacts: int = 2) -> str:
        own = uuid.uuid4().hex
        experiment = self.experiment if experiment is None else experiment
        home = self.file.parent / "mlruns" / str(experiment) / own / "artifacts"
        self.do(
            "insert into runs (run_uuid, name, user_id, source_type, status, start_time, lifecycle_stage,"
            " artifact_uri, experiment_id) values (?, 'a run', 'us', 'LOCAL', 'FINISHED', 1, 'active', ?, ?)",
            own,
            str(home),
            experiment,
        )
        self.do("insert into params (key, value, run_uuid) values ('p', 'v', ?)", own)
        home.mkdir(parents=True)
        for number in range(artifacts):
            (home / f"file-{number}").write_bytes(os.urandom(100))
        return own


@pytest.fixture
def small(empty: Path, tmp_path: Path) -> Small:
    """One experiment with three runs, and a registered model."""
    folder = tmp_path / "source"
    folder.mkdir()
    shutil.copy(empty, folder / "mlflow.db")
    found = Small(folder / "mlflow.db", f"small{time.time_ns()}")
    found.do(
        "insert into experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time,"
        " last_update_time, workspace) values (?, ?, ?, 'active', 1, 1, 'default')",
        found.experiment,
        f"{found.prefix}-0",
        str(folder / "mlruns" / str(found.experiment)),
    )
    runs = [found.run() for _ in range(3)]
    model = f"{found.prefix}-model"
    found.do("insert into registered_models (name, creation_time, workspace) values (?, 1, 'default')", model)
    found.do(
        "insert into model_versions (name, version, creation_time, current_stage, source, run_id, status,"
        " workspace) values (?, 1, 1, 'None', ?, ?, 'READY', 'default')",
        model,
        f"{folder}/mlruns/{found.experiment}/{runs[0]}/artifacts",
        runs[0],
    )
    return found


class Said:
    """What a client says of all with a prefix; ids of experiments and addresses made comparable."""

    def __init__(self, client: MlflowClient, prefix: str) -> None:
        self._client = client
        self._names: dict[str, str] = {}
        self._locations: list[tuple[str, str]] = []
        experiments = [
            e for e in client.search_experiments(view_type=ViewType.ALL) if e.name.startswith(f"{prefix}-")
        ]
        for one in experiments:
            self._names[one.experiment_id] = one.name
            self._locations.append((_plain(one.artifact_location), f"<{one.name}>"))
        self.found: dict[str, Any] = {}
        with pytest.MonkeyPatch.context() as patched:  # MLflow looks for artifacts of traces and models there
            patched.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
            self._read(experiments, prefix)

    def _read(self, experiments: list[Any], prefix: str) -> None:
        for one in experiments:
            self.found[one.name] = (one.lifecycle_stage, one.creation_time, one.last_update_time, one.tags)
            self._runs(one.experiment_id)
            if one.lifecycle_stage == "active":
                self._models(one.experiment_id)
                self._traces(one.experiment_id)
        self._registered(prefix)

    def _runs(self, experiment: str) -> None:
        for run in self._client.search_runs([experiment], run_view_type=ViewType.ALL):
            own = run.info.run_id
            metrics = {
                key: sorted(
                    (m.timestamp, m.step, _stored(m.value)) for m in self._client.get_metric_history(own, key)
                )
                for key in run.data.metrics
            }
            info = run.info
            self.found[own] = {
                "info": (info.run_name, info.status, info.start_time, info.end_time, info.lifecycle_stage),
                "user": info.user_id,
                "home": (self._names[experiment], self._address(info.artifact_uri)),
                "params": run.data.params,
                "tags": run.data.tags,
                "metrics": metrics,
                "latest": {k: _stored(v) for k, v in run.data.metrics.items()},
                "inputs": sorted(
                    (
                        i.dataset.name,
                        i.dataset.digest,
                        i.dataset.source,
                        str(sorted((t.key, t.value) for t in i.tags)),
                    )
                    for i in run.inputs.dataset_inputs
                ),
                "outputs": [(m.model_id, m.step) for m in run.outputs.model_outputs] if run.outputs else [],
            }
            if info.lifecycle_stage == "active":
                self.found[own]["artifacts"] = digests(info.artifact_uri, self._client)

    def _models(self, experiment: str) -> None:
        for model in self._client.search_logged_models([experiment]):
            self.found[model.model_id] = {
                **{
                    key: getattr(model, key)
                    for key in ("name", "creation_timestamp", "status", "source_run_id", "params", "tags")
                },
                "home": self._address(model.artifact_location),
                "metrics": [(m.key, m.value, m.step, m.timestamp, m.run_id) for m in model.metrics or ()],
                "artifacts": digests(model.artifact_location, self._client),
            }

    def _traces(self, experiment: str) -> None:
        for trace in self._client.search_traces(locations=[experiment]):
            info = trace.info.to_dict()
            info["tags"] = {k: self._address(v) for k, v in info["tags"].items()}
            info.pop("trace_location")
            for one in info.get("assessments") or ():
                one.pop("valid", None)
            info["assessments"] = sorted(info.get("assessments") or (), key=lambda a: a["assessment_id"])
            spans = sorted((s.to_dict() for s in trace.data.spans), key=lambda s: s["span_id"])
            for span in spans:
                span["attributes"].pop("mlflow.experimentId", None)
                span.setdefault("links", [])  # that of an older MLflow has none
            self.found[trace.info.trace_id] = (info, spans)

    def _registered(self, prefix: str) -> None:
        store = self._client._get_registry_client().store  # the client hides prompts
        mine = f"name like '{prefix}-%'"
        prompts = f"{mine} and tag.`mlflow.prompt.is_prompt` = 'true'"
        for query, prompt in ((mine, False), (prompts, True)):
            for short in store.search_registered_models(query, max_results=100):
                one = store.get_registered_model(short.name)
                tags = {
                    k: self._named(v) if k == "_mlflow_experiment_ids" else v for k, v in one._tags.items()
                }
                about = (
                    one.creation_timestamp,
                    one.last_updated_timestamp,
                    one.description,
                    {k: str(v) for k, v in one.aliases.items()},
                    tags,
                )
                self.found[f"model {one.name}"] = (about, self._versions(store, one.name, prompt))

    def _named(self, ids: str) -> list[str]:
        return sorted(self._names.get(one, one) for one in ids.split(","))

    def _versions(self, store: Any, name: str, prompt: bool) -> list[Any]:
        query = f"name = '{name}'" + (" and tag.`mlflow.prompt.is_prompt` = 'true'" if prompt else "")
        found = []
        for v in sorted(store.search_model_versions(query, max_results=100), key=lambda v: int(v.version)):
            address = store.get_model_version_download_uri(name, v.version)
            about = (str(v.version), v.creation_timestamp, v.run_id, v.status, v._tags, v.current_stage)
            places = (self._address(v.source), self._address(address))
            content = sorted((Path(k).name, v) for k, v in digests(address, self._client).items())
            found.append((about, places, [] if prompt else content))
        return found

    def _address(self, uri: str) -> str:
        """An address below an experiment's location, told by the experiment's name."""
        for location, name in self._locations:
            if _plain(uri).startswith(location + "/"):
                return name + _plain(uri)[len(location) :]
        return uri


def _stored(value: float) -> str:
    """MLflow's databases keep infinities as the largest numbers; file stores as they are."""
    return repr(math.copysign(1.7976931348623157e308, value) if math.isinf(value) else value)


def _plain(uri: str) -> str:
    return re.sub(r"^(file://|mlflow-artifacts:)", "", uri)


def digests(uri: str, client: MlflowClient) -> dict[str, str]:
    """Digest of every artifact below an address, as MLflow downloads them."""
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory() as folder:
        try:
            path = Path(download_artifacts(uri, dst_path=folder, tracking_uri=client.tracking_uri))
        except (MlflowException, OSError):
            return {}
        return {
            str(f.relative_to(path)): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in sorted(path.rglob("*"))
            if f.is_file()
        }
