"""`mlplatform retention`: exit codes, JSON, messages."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.adapters.postgres import exclusive
from mlflow_platform.cli.root import run
from tests.retention.conftest import World


@pytest.fixture
def folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Documents of a policy about the test's experiment, and the stack as the server `default`."""
    monkeypatch.setenv("MLPLATFORM_DATA", str(world.stack.folder.root))
    for name in ("MLFLOW_BACKEND_STORE_URI", "PGHOST", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    write(tmp_path, world)
    return tmp_path


def write(folder: Path, world: World, **spec: Any) -> None:
    policy = world.policy(rules={"runs": {"olderThan": "90d"}}, **spec)
    document = {"apiVersion": "mlplatform.io/v1alpha1", **policy.model_dump(mode="json", exclude_none=True)}
    (folder / "policy.json.yaml").write_text(json.dumps(document))


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_plan_run_status_undo(world: World, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [world.run() for _ in range(3)]
    paths = [str(folder)]
    assert run(["retention", "plan", *paths, "--json"]) == 2
    plan = printed(capsys)
    assert (plan["dryRun"], plan["quarantined"], plan["objects"], plan["bytes"]) == (True, {"run": 3}, 6, 60)
    assert plan["experiments"][0]["name"] == world.name
    assert {world.stage(r) for r in runs} == {"active"}
    assert run(["retention", "plan", *paths, "--no-exit-code", "--json"]) == 0
    assert printed(capsys)["quarantined"] == {"run": 3}

    assert run(["retention", "run", *paths, "--json"]) == 0
    assert printed(capsys)["quarantined"] == {"run": 3}
    assert run(["retention", "status", "--json"]) == 0
    status = printed(capsys)
    assert {"policy": "test", "kind": "run"}.items() <= status["quarantine"][0].items()
    assert set(status["roots"].values()) == {status["installation"]}

    assert run(["retention", "undo", "--id", runs[0], "--json"]) == 0
    assert printed(capsys)["restored"]["run"] == 1
    world.age_quarantine()
    assert run(["retention", "run", *paths]) == 0
    text = capsys.readouterr().out
    assert f"{world.name} ({world.experiment}): 2 runs purged, 4 objects, 40 bytes" in text
    assert [world.exists(r) for r in runs] == [True, False, False]
    assert run(["retention", "plan", *paths]) == 0, "what undo brought back is not chosen again"
    assert "Nothing to delete." in capsys.readouterr().out


def test_a_run_waits_for_another_as_long_as_it_is_told(
    world: World, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with exclusive(world.database) as other:
        assert run(["retention", "run", str(folder), "--wait", "0"]) == 1
        assert "another retention run is at work on this database" in capsys.readouterr().err
        ending = threading.Timer(1.0, other.close)
        ending.start()
        assert run(["retention", "run", str(folder), "--wait", "60"]) == 0
        ending.join()


def test_undo_of_one_policy(world: World) -> None:
    from mlflow_platform.retention.held import undo

    one, other = world.run(objects=0), world.run(objects=0)
    rules = {"runs": {"olderThan": "90d"}}
    world.sql.execute("update runs set start_time = 1, end_time = 1 where run_uuid = %s", (one,))
    world.engine().run([world.policy(name=f"a-{world.experiment}", rules={"runs": {"olderThan": "9000d"}})])
    world.engine().run([world.policy(name=f"b-{world.experiment}", rules=rules)])
    assert undo(world.database, policy=f"a-{world.experiment}")["run"] == 1
    assert (world.stage(one), world.stage(other)) == ("active", "deleted")


def test_the_brake_has_its_exit_code_and_hash(
    world: World, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [world.run(objects=0) for _ in range(10)]
    write(folder, world, brake={"maxPercent": 30})
    assert run(["retention", "run", str(folder), "--json"]) == 3
    found = printed(capsys)["error"]
    assert found["type"] == "BrakeStopped"
    assert {world.stage(r) for r in runs} == {"active"}
    assert run(["retention", "run", str(folder), "--allow-destructive", found["hash"]]) == 0
    assert {world.stage(r) for r in runs} == {"deleted"}


def test_a_closed_window_stops_it_and_the_next_run_goes_on(
    world: World, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = world.run()
    hour = int(world.one("select extract(hour from now() at time zone 'utc')"))
    write(folder, world, window={"start": f"{(hour + 2) % 24:02}:00", "end": f"{(hour + 3) % 24:02}:00"})
    assert run(["retention", "run", str(folder), "--json"]) == 0
    assert "window" in printed(capsys)["stopped"]
    assert world.stage(old) == "active"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "no policies given"),
        (["run", "{folder}", "--policy", "other"], "is called other"),
        (["run", "{folder}", "--server", "other"], "no RetentionPolicy document is about other"),
        (["status", "--server", "other"], "no TrackingServer document 'other'"),
    ],
)
def test_mistakes(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["retention", *(a.format(folder=folder) for a in arguments)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "place", "message"),
    [
        ("rules: {}", "1:", "the policy has no rule"),
        ("rules: {runs: {}}", ":", "these rules choose no run"),
        ("rules: {runs: {olderThn: 90d}}", "olderThn", "did you mean olderThan?"),
        ("rules: {runs: {olderThan: 90}}", "olderThan", "text"),
        ("rules: {runs: {olderThan: 90 days}}", "olderThan", "write a number and its unit"),
        ("rules: {orphans: {olderThan: 1h}}", "olderThan", "write at least 1d"),
        ("rules: {runs: {olderThan: 90d}}, archives: {}", "archives", "unknown field"),
        (
            "rules: {runs: {olderThan: 90d}}, window: {start: '09:00', end: '09:00'}",
            "end",
            "the window is empty",
        ),
        ("rules: {runs: {olderThan: 90d}}, schedule: sometimes", "schedule", "five fields as in cron"),
    ],
)
def test_policies_are_checked_like_other_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: str, place: str, message: str
) -> None:
    head = "apiVersion: mlplatform.io/v1alpha1\nkind: RetentionPolicy\nmetadata: {name: p}\n"
    file = tmp_path / "p.yaml"
    file.write_text(f"{head}spec: {{{spec}}}\n")
    assert run(["validate", str(file)]) == 1
    out = capsys.readouterr().out
    assert message in out
    assert f"{file}:4:" in out


def test_plan_and_apply_leave_policies_alone(
    world: World, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mlplatform.toml").write_text('project = "policies"\n')
    assert run(["plan", str(folder)]) == 0


def test_a_documented_server(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Database, store and logins come from the TrackingServer document and the secrets it names."""
    where = world.stack.endpoints()
    world.run()
    write(tmp_path, world, server="prod", maxP99Factor=100)
    secrets = {"URI": where.database_uri, "KEY": where.s3_access_key, "SECRET": where.s3_secret_key}
    secrets |= {"USER": where.username, "PASSWORD": where.password}
    for key, value in secrets.items():
        monkeypatch.setenv(f"T_PROD_{key}", value)
    (tmp_path / "server.yaml").write_text(
        f"""
apiVersion: mlplatform.io/v1alpha1
kind: TrackingServer
metadata: {{name: prod}}
spec:
  trackingUri: {where.tracking_uri}
  credentials:
    usernameSecretRef: {{name: prod, key: user}}
    passwordSecretRef: {{name: prod, key: password}}
  database: {{uriSecretRef: {{name: prod, key: uri}}}}
  artifacts:
    destination: s3://{where.s3_bucket}
    endpoint: {where.s3_endpoint}
    region: us-east-1
    accessKeySecretRef: {{name: prod, key: key}}
    secretKeySecretRef: {{name: prod, key: secret}}
"""
    )
    command = ["retention", "run", str(tmp_path), "--server", "prod", "--secrets", "env:T", "--json"]
    assert run(command) == 0
    found = capsys.readouterr()
    assert json.loads(found.out)["quarantined"] == {"run": 1}
    assert not any(value in found.out + found.err for value in secrets.values() if len(value) > 8)
