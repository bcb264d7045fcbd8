"""The platform's servers take the ids that clients make up, once, and give nothing away by it."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.client.ids import ID_TAG as CLIENTS
from mlflow_platform.server.idstore import ID_TAG, tracking_store

pytest_plugins = ("tests.client.program_fixtures",)


def test_client_and_server_mean_the_same_tag() -> None:
    assert CLIENTS == ID_TAG


@pytest.fixture(params=["postgresql", "sqlite"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """MLflow's client of a server on Postgres, and of a database file without a server."""
    if request.param == "postgresql":
        return request.getfixturevalue("plain")
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


def experiment(client: Any) -> str:
    return str(client.create_experiment(f"ids-{uuid.uuid4().hex}"))


def test_eight_creates_at_once_make_one_run_and_one_model(client: Any) -> None:
    here, run_id, model_id = experiment(client), uuid.uuid4().hex, f"m-{uuid.uuid4().hex}"

    def create(_: int) -> tuple[str, str, str]:
        run = client.create_run(here, tags={ID_TAG: run_id, "team": "search"}, run_name="one")
        model = client.create_logged_model(here, name="m", source_run_id=run_id, tags={ID_TAG: model_id})
        return run.info.run_id, model.model_id, run.info.run_name

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(create, range(8))) == {(run_id, model_id, "one")}
    assert [r.info.run_id for r in client.search_runs([here])] == [run_id]
    assert [m.model_id for m in client.search_logged_models([here])] == [model_id]
    run = client.get_run(run_id)
    assert run.data.tags["team"] == "search"
    assert ID_TAG not in run.data.tags
    assert run.info.artifact_uri.endswith(f"/{run_id}/artifacts")
    assert f"/{model_id}/" in client.get_logged_model(model_id).artifact_location


def test_without_the_tag_ids_are_the_servers_own(client: Any) -> None:
    here = experiment(client)
    assert client.create_run(here).info.run_id != client.create_run(here).info.run_id


def test_an_id_of_another_experiment_is_refused_not_shown(client: Any) -> None:
    from mlflow.exceptions import MlflowException

    mine, theirs, run_id = experiment(client), experiment(client), uuid.uuid4().hex
    client.create_run(theirs, tags={ID_TAG: run_id, "secret": "x"})
    with pytest.raises(MlflowException, match="is taken") as error:
        client.create_run(mine, tags={ID_TAG: run_id})
    assert error.value.error_code == "RESOURCE_ALREADY_EXISTS"
    assert not client.search_runs([mine])


def test_what_is_no_id_and_what_cannot_be_created_are_errors(client: Any) -> None:
    from mlflow.exceptions import MlflowException

    here = experiment(client)
    with pytest.raises(MlflowException, match="is not an id"):
        client.create_run(here, tags={ID_TAG: "../../x"})
    with pytest.raises(MlflowException, match=r"No Experiment|not exist"):
        client.create_run("987654", tags={ID_TAG: uuid.uuid4().hex})
    # The refused id is not left behind for whoever is next in this thread.
    assert client.create_run(here).info.run_id


def test_with_workspaces_too(stack_with_workspaces: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stack_with_workspaces.endpoints().environment().items():
        monkeypatch.setenv(name, value)
    import mlflow

    client = mlflow.MlflowClient(stack_with_workspaces.endpoints().tracking_uri)
    here, run_id = experiment(client), uuid.uuid4().hex
    assert {client.create_run(here, tags={ID_TAG: run_id}).info.run_id for _ in range(2)} == {run_id}


def test_the_store_is_mlflows_own_otherwise(tmp_path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = tracking_store(f"sqlite:///{tmp_path / 'x.db'}", str(tmp_path))
    assert isinstance(store, SqlAlchemyStore)
