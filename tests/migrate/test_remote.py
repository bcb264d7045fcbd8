"""A server as a source: page by page, with a login, and what its API does not tell."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.genai.label_schemas import InputText

from mlflow_platform.adapters.mlflow import MlflowApi
from mlflow_platform.errors import BadInput
from mlflow_platform.local import Stack
from mlflow_platform.migrate import entities, staged
from mlflow_platform.migrate import remote as reading
from mlflow_platform.migrate.remote import open_remote
from mlflow_platform.migrate.staged import Staged
from tests.migrate.conftest import Source, Target


def rows(source: Staged) -> dict[str, list[Any]]:
    with source.connect() as connection:
        return {
            table: sorted(map(repr, staged.rows(connection, table, columns)))
            for table, columns in staged.columns(connection).items()
            if table != "alembic_version"
        }


def folder(below: Path, name: str) -> Path:
    made = below / name
    made.mkdir()
    return made


def test_small_pages_lose_nothing(remote: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And names with quotes, which filters cannot escape, lose no versions."""
    client = MlflowClient(remote.uri, remote.uri)
    names = [f"it's {time.time_ns()}", f'"quoted" {time.time_ns()}', f"'both\" {time.time_ns()}"]
    experiment = client.get_experiment_by_name(f"{remote.prefix}-0")
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id])[0].info
    for name in names:
        client.create_registered_model(name)
        client.create_model_version(name, f"{run.artifact_uri}/model", run.run_id)
    try:
        large = open_remote(remote.uri, folder(tmp_path, "large"))
        for name in ("_PAGE", "_TRACES", "_SPANS"):
            monkeypatch.setattr(reading, name, 1)
        monkeypatch.setattr(reading, "_METRICS", 3)
        add, sizes = entities.add_metrics, list[int]()

        def noted(session: Any, run: str, key: str, history: Any) -> None:
            sizes.append(len(history))
            add(session, run, key, history)

        monkeypatch.setattr(entities, "add_metrics", noted)
        small = open_remote(remote.uri, folder(tmp_path, "small"))
    finally:
        for name in names:
            client.delete_registered_model(name)
    whole = rows(large)
    assert rows(small) == whole
    assert max(sizes) == 3, "no history is in memory whole"
    assert min(len(whole[table]) for table in ("runs", "trace_info", "spans", "model_versions")) > 1
    with large.connect() as connection:
        versions = connection.execute("select name from model_versions where name in (?, ?, ?)", names)
        assert {name for (name,) in versions} == set(names[:2])
    assert [(one.what, one.count, one.names) for one in large.left] == [("versions of a model", 1, names[2:])]


def test_a_login_and_what_is_not_told(
    stack_with_workspaces: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the API has no call for, or none that is read, is in the list: nothing goes missing in silence."""
    where = stack_with_workspaces.endpoints()
    for name, value in where.environment().items():
        monkeypatch.setenv(name, value)
    client, prefix = MlflowClient(where.tracking_uri), f"told{time.time_ns()}"
    store = client._tracking_client.store
    own = client.create_experiment(f"{prefix}-0")
    run = client.create_run(own).info.run_id
    client.log_text(run, "some text", "deep/file.txt")
    model = client.create_logged_model(own, "gone", source_run_id=run)
    client.log_outputs(run, [mlflow.entities.LoggedModelOutput(model.model_id, 0)])
    client.delete_logged_model(model.model_id)
    schema = store.create_label_schema(own, name="clear", type="feedback", input=InputText())
    store.create_review_queue(own, name="mine", queue_type="custom", schema_ids=[schema.schema_id])
    store.create_issue(own, "slow", "it is slow")
    mlflow.create_workspace(prefix)
    try:
        address = where.tracking_uri.replace("://", f"://{where.username}@")
        for name in where.environment():
            monkeypatch.delenv(name)  # the login is that of the address
        found = open_remote(address, folder(tmp_path, "a"), password=where.password)
        with pytest.raises(BadInput, match="refuses this login") as refused:
            open_remote(address, folder(tmp_path, "b"), password="another secret")
        assert "secret" not in str(refused.value)
    finally:
        for name, value in where.environment().items():
            monkeypatch.setenv(name, value)
        mlflow.delete_workspace(prefix)
    left = {one.what: one.names for one in found.left}
    assert where.username in left["logins"]
    assert prefix in left["workspaces"]
    assert model.model_id in left["logged models"]
    assert "label schemas" in found.unseen, "to list them makes some"
    assert f"{prefix}-0: mine" in left["review queues"]
    assert f"{prefix}-0: slow" in left["issues"]
    assert found.proxied is not None
    reader = found.proxied()
    (key,) = [key for key, _ in reader.files(client.get_run(run).info.artifact_uri.partition(":/")[2])]
    with reader.reading(key) as content:
        assert content.read() == b"some text"
    reader.close()


def test_a_login_that_does_not_see_all(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = target.stack.endpoints()
    user = f"ada{time.time_ns()}"
    api = MlflowApi(where.tracking_uri, where.username, where.password)
    api.call("POST", "api/2.0/mlflow/users/create", json={"username": user, "password": "her own password"})
    for name in where.environment():
        monkeypatch.delenv(name, raising=False)
    found = open_remote(
        where.tracking_uri.replace("://", f"://{user}@"), folder(tmp_path, "a"), password="her own password"
    )
    left = {one.what: one.names for one in found.left}
    assert left["what this login may not see"] == [user]
