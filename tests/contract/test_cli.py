"""plan, apply, drift, import and export as a user types them, on a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mlflow_platform.cli.root import run
from mlflow_platform.cli.transfer import open_target
from mlflow_platform.local import Stack

CAPTURE = pytest.CaptureFixture[str]


@pytest.fixture
def login(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    use(stack, monkeypatch)


def use(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stack.endpoints().environment().items():
        monkeypatch.setenv(name, value)


def folder(path: Path, project: str, *names: str, **spec: object) -> Path:
    """A configuration of experiments, one file each."""
    path.mkdir()
    (path / "mlplatform.toml").write_text(f'project = "{project}"\n')
    for name in names:
        document = {"apiVersion": "mlplatform.io/v1alpha1", "kind": "Experiment", "metadata": {"name": name}}
        (path / f"{name}.yaml").write_text(yaml.safe_dump({**document, "spec": spec}))
    return path


def experiment(name: str) -> dict[str, str]:
    """Lifecycle and tags of an experiment, as the server has them."""
    api = open_target(None, "project:none").api
    found = api.call("GET", "api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": name})
    return {
        "lifecycle": found["experiment"]["lifecycle_stage"],
        **{t["key"]: t["value"] for t in found["experiment"].get("tags", ())},
    }


def set_tag(name: str, key: str, value: str) -> None:
    api = open_target(None, "project:none").api
    found = api.call("GET", "api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": name})
    body = {"experiment_id": found["experiment"]["experiment_id"], "key": key, "value": value}
    api.call("POST", "api/2.0/mlflow/experiments/set-experiment-tag", json=body)


def test_plan_apply_plan(login: None, tmp_path: Path, capsys: CAPTURE) -> None:
    config = str(folder(tmp_path / "c", "cli-basic", "cli-a", "cli-b", tags={"team": "search"}))
    assert run(["plan", config]) == 2
    assert "+ create Experiment 'cli-a' (not on the server)" in capsys.readouterr().out
    assert run(["apply", config]) == 0
    assert "Applied to default: 2 created." in capsys.readouterr().out
    assert run(["plan", config, "--json"]) == 0
    (server,) = json.loads(capsys.readouterr().out)["servers"]
    assert server["changes"] == []
    assert server["requests"]["writes"] == 0
    assert run(["apply", config, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["servers"][0]["results"] == []


def test_drift_names_the_field_and_apply_corrects_it(login: None, tmp_path: Path, capsys: CAPTURE) -> None:
    config = str(folder(tmp_path / "c", "cli-drift", "drift-a", tags={"team": "search"}))
    assert run(["apply", config]) == 0
    set_tag("drift-a", "team", "edited by hand")
    assert run(["drift", config]) == 2
    assert 'tags.team: "edited by hand" -> "search"' in capsys.readouterr().out
    assert run(["apply", config]) == 0
    assert experiment("drift-a")["team"] == "search"
    assert run(["drift", config]) == 0


def test_observe_only_is_drift_and_is_left_alone(login: None, tmp_path: Path) -> None:
    config = folder(tmp_path / "c", "cli-observe", "observe-a", tags={"team": "search"})
    assert run(["apply", str(config)]) == 0
    set_tag("observe-a", "team", "edited")
    (config / "observe-a.yaml").write_text(
        (config / "observe-a.yaml").read_text().replace("spec:", "spec:\n  managementPolicy: ObserveOnly")
    )
    assert run(["drift", str(config)]) == 2
    assert run(["plan", str(config)]) == 0
    assert run(["apply", str(config)]) == 0
    assert experiment("observe-a")["team"] == "edited"


class TestBrake:
    names = tuple(f"brake-{i}" for i in range(10))

    @pytest.fixture
    def config(self, login: None, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
        number = abs(hash(request.node.name)) % 10**6
        names = [f"{n}-{number}" for n in self.names]
        config = folder(tmp_path / "c", f"brake-{number}", *names, deletionPolicy="Delete")
        assert run(["apply", str(config)]) == 0
        return config

    def alive(self, config: Path) -> int:
        target = open_target(None, f"project:{config.name}")
        names = [f.stem for f in config.parent.glob("all/*.yaml")]
        body = {"max_results": 50_000, "view_type": "ACTIVE_ONLY"}
        found = target.api.call("POST", "api/2.0/mlflow/experiments/search", json=body)["experiments"]
        return sum(e["name"] in names for e in found)

    def test_a_half_deleted_folder_deletes_nothing(self, config: Path, capsys: CAPTURE) -> None:
        shutil.copytree(config, config.parent / "all")
        for file in sorted(config.glob("*.yaml"))[:5]:
            file.unlink()
        capsys.readouterr()
        assert run(["apply", str(config)]) == 3
        message = capsys.readouterr().err
        assert "5 of 10 owned objects (50 %" in message
        assert self.alive(config) == 10
        released = re.search(r"--allow-destructive (\w{12})", message)
        assert released
        assert run(["apply", str(config), "--allow-destructive", "0" * 12]) == 3
        assert run(["apply", str(config), "--allow-destructive", released[1]]) == 0
        assert self.alive(config) == 5

    def test_an_empty_folder_deletes_nothing(self, config: Path, capsys: CAPTURE) -> None:
        shutil.copytree(config, config.parent / "all")
        for file in config.glob("*.yaml"):
            file.unlink()
        capsys.readouterr()
        assert run(["apply", str(config)]) == 3
        assert "declares nothing" in capsys.readouterr().err
        assert self.alive(config) == 10

    def test_a_single_file_gives_nothing_up(self, config: Path) -> None:
        shutil.copytree(config, config.parent / "all")
        assert run(["apply", str(next(config.glob("*.yaml")))]) == 0
        assert self.alive(config) == 10


def test_two_projects_on_one_server_leave_each_other_alone(
    login: None, tmp_path: Path, capsys: CAPTURE
) -> None:
    one = folder(tmp_path / "one", "cli-one", "shared-x", "only-one", deletionPolicy="Delete")
    two = folder(tmp_path / "two", "cli-two", "only-two", deletionPolicy="Delete")
    assert run(["apply", str(one)]) == 0
    assert run(["apply", str(two)]) == 0
    (one / "only-one.yaml").unlink()
    assert run(["apply", str(one)]) == 0
    assert experiment("only-one")["lifecycle"] == "deleted"
    assert experiment("only-two")["lifecycle"] == "active"
    shutil.copy(one / "shared-x.yaml", two)
    capsys.readouterr()
    assert run(["apply", str(two)]) == 1
    message = capsys.readouterr().err
    assert "project:cli-one" in message
    assert "project:cli-two" in message
    assert run(["plan", str(two), "--project", "another-name"]) == 1  # its objects are cli-two's now
    assert run(["apply", str(two), "--adopt-from", "project:cli-one"]) == 0
    capsys.readouterr()
    assert run(["apply", str(one)]) == 1
    assert "project:cli-two" in capsys.readouterr().err


def test_a_saved_plan_is_applied_as_it_was_seen(login: None, tmp_path: Path, capsys: CAPTURE) -> None:
    config = folder(tmp_path / "c", "cli-saved", "saved-a", tags={"team": "search"})
    file = tmp_path / "today.plan"
    assert run(["plan", str(config), "--out", str(file)]) == 2
    assert file.stat().st_mode & 0o777 == 0o600
    shutil.rmtree(config)  # the file says it all
    assert run(["apply", str(file)]) == 0
    assert experiment("saved-a")["team"] == "search"
    capsys.readouterr()
    assert run(["apply", str(file)]) == 1
    assert "changed on the server since the plan was saved" in capsys.readouterr().err


def test_a_saved_plan_is_refused_when_its_objects_changed(
    login: None, tmp_path: Path, capsys: CAPTURE
) -> None:
    config = folder(tmp_path / "c", "cli-stale", "stale-a", tags={"team": "search"})
    assert run(["apply", str(config)]) == 0
    set_tag("stale-a", "team", "one")
    file = tmp_path / "today.plan"
    assert run(["plan", str(config), "--out", str(file)]) == 2
    set_tag("stale-a", "team", "two")
    capsys.readouterr()
    assert run(["apply", str(file)]) == 1
    assert "plan again" in capsys.readouterr().err
    assert experiment("stale-a")["team"] == "two"
    file.write_text(file.read_text()[:-200])
    assert run(["apply", str(file)]) == 1  # damaged


def test_a_saved_plan_with_problems_or_damage_is_refused(
    login: None, tmp_path: Path, capsys: CAPTURE
) -> None:
    config = folder(tmp_path / "c", "cli-problem", "problem-a")
    role = {"metadata": {"name": "problem-role"}, "spec": {"members": ["nobody-such"]}}
    (config / "role.yaml").write_text(
        yaml.safe_dump({"apiVersion": "mlplatform.io/v1alpha1", "kind": "MLflowRole", **role})
    )
    file = tmp_path / "today.plan"
    capsys.readouterr()
    assert run(["plan", str(config), "--out", str(file)]) == 1
    assert re.search(r"role\.yaml:\d+:\d+: MLflowRole 'problem-role' refers to", capsys.readouterr().out)
    assert run(["apply", str(file)]) == 1
    assert "had problems when the plan was saved; nothing was written" in capsys.readouterr().err
    assert run(["apply", str(config), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)["error"]["problems"]
    assert [p["what"].split(" refers")[0] for p in said][1:] == ["MLflowRole 'problem-role'"]
    assert said[1]["line"]
    assert run(["apply", str(file), "--keep-going"]) == 1  # what could be done is done, and it is said
    assert experiment("problem-a")["lifecycle"] == "active"
    plan = json.loads(file.read_text())
    for damage in (
        {**plan, "servers": None},
        {"format": plan["format"]},
        {**plan, "servers": [{**plan["servers"][0], "changes": []}]},
    ):
        file.write_text(json.dumps(damage))
        capsys.readouterr()
        assert run(["apply", str(file)]) == 1
        assert "the saved plan is damaged" in capsys.readouterr().err
    file.write_text(json.dumps(plan)[:300])
    assert run(["apply", str(file)]) == 1
    assert "the saved plan is damaged" in capsys.readouterr().err


def test_a_saved_plan_of_two_servers_writes_all_or_nothing(
    stack: Stack, login: None, tmp_path: Path, capsys: CAPTURE
) -> None:
    """Two TrackingServer documents for one server: the second one's object changes after the plan."""
    at = stack.endpoints()
    config = folder(tmp_path / "c", "cli-two-servers", "first-of-two")
    second = {"metadata": {"name": "second-of-two"}, "spec": {"server": "zz", "tags": {"team": "search"}}}
    secret = {"usernameSecretRef": {"name": "login", "key": "user"}}
    secret["passwordSecretRef"] = {"name": "login", "key": "password"}
    server = {"metadata": {"name": "zz"}, "spec": {"trackingUri": at.tracking_uri, "credentials": secret}}
    for kind, document in (("Experiment", second), ("TrackingServer", server)):
        text = yaml.safe_dump({"apiVersion": "mlplatform.io/v1alpha1", "kind": kind, **document})
        (config / f"{kind}.yaml").write_text(text)
    for key, value in (("user", at.username), ("password", at.password)):
        path = tmp_path / "secrets" / "login" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(value)
    arguments = ["--secrets", str(tmp_path / "secrets")]
    file = tmp_path / "two.plan"
    assert run(["plan", str(config), "--out", str(file), *arguments]) == 2
    assert at.password not in file.read_text()
    api = open_target(None, "project:none").api
    api.call("POST", "api/2.0/mlflow/experiments/create", json={"name": "second-of-two"})
    capsys.readouterr()
    assert run(["apply", str(file), *arguments]) == 1
    assert "nothing was written" in capsys.readouterr().err
    body = {"max_results": 1000, "filter": "name = 'first-of-two'"}
    assert "experiments" not in api.call("POST", "api/2.0/mlflow/experiments/search", json=body)


def test_what_is_wrong_with_the_command_is_said(
    login: None, tmp_path: Path, capsys: CAPTURE, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = folder(tmp_path / "c", "cli-wrong", "wrong-a")
    assert run(["plan"]) == 1
    assert run(["plan", str(config), "--no-such-option"]) == 64
    assert run(["plan", str(tmp_path / "absent")]) == 64
    (config / "mlplatform.toml").unlink()
    capsys.readouterr()
    assert run(["plan", str(config)]) == 1
    assert "no project name" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "this is wrong")
    assert run(["plan", str(config), "--project", "x"]) == 1
    message = capsys.readouterr().err
    assert "this is wrong" not in message
    assert "does not accept the login" in message
    assert run(["plan", str(config), "--project", "x", "--tracking-uri", "http://127.0.0.1:9"]) == 1
    assert "127.0.0.1:9" in capsys.readouterr().err


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server that nobody else's test has touched."""
    from tests.conftest import running

    yield from running(tmp_path_factory.mktemp("import") / "data")


def test_import_of_a_server_made_by_hand_plans_empty(
    own_stack: Stack, tmp_path: Path, capsys: CAPTURE, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(own_stack, monkeypatch)
    subprocess.run([sys.executable, "-m", "tests.contract.handmade"], env=os.environ, check=True)
    out = tmp_path / "imported"
    assert run(["import", "--out", str(out), "--project", "byhand", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["written"]
    assert written == {
        "Experiment": 99,  # one of the hundred is soft-deleted
        "RegisteredModel": 20,
        "Prompt": 10,
        "MLflowUser": 20,
        "MLflowRole": 5,
    }
    roles = [d for d in yaml.safe_load_all((out / "mlflowroles.yaml").read_text()) if d]
    named = {p["resource"] for d in roles for p in d["spec"]["permissions"]}
    assert {"#Gone model", "#gone-prompt"} <= named, "MLflow keeps permissions on what is deleted"
    assert run(["validate", str(out)]) == 0
    capsys.readouterr()
    assert run(["plan", str(out), "--json"]) == 0
    (server,) = json.loads(capsys.readouterr().out)["servers"]
    assert (server["changes"], server["problems"], server["held"]) == ([], [], [])
    assert server["unchanged"] == sum(written.values())

    # Taken over at once, and given back as documents by export.
    assert run(["apply", str(out), "--adopt"]) == 0
    assert run(["plan", str(out), "--adopt"]) == 0
    capsys.readouterr()
    assert run(["export", "--project", "byhand"]) == 0
    exported = [d for d in yaml.safe_load_all(capsys.readouterr().out) if d]
    assert Counter(d["kind"] for d in exported) == written
    assert run(["import", "--out", str(out), "--project", "byhand"]) == 1  # never over existing files
