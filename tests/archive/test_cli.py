"""`mlplatform archive`: exit codes, JSON, messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.cli.root import run
from tests.retention.conftest import World


@pytest.fixture
def place(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder to archive to, with the stack as the server `default`."""
    monkeypatch.setenv("MLPLATFORM_DATA", str(world.stack.folder.root))
    for name in ("MLFLOW_BACKEND_STORE_URI", "PGHOST", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "archives").mkdir()
    return str(tmp_path / "archives")


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_create_list_verify_restore(world: World, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = world.run(), world.run()
    experiment = ["--experiment", world.name]
    assert run(["archive", "create", place, *experiment, "--dry-run", "--json"]) == 2
    dry = printed(capsys)
    assert (dry["counts"]["runs"], dry["objects"], dry["bytes"], dry["dryRun"]) == (2, 4, 40, True)
    assert list(Path(place).rglob("*")) == []

    assert run(["archive", "create", place, *experiment, "--json"]) == 0
    made = printed(capsys)
    assert (made["counts"], made["objects"], made["problems"]) == (dry["counts"], 4, [])
    assert run(["archive", "list", place]) == 0
    assert f"{made['id']}: 2 runs, 0 logged models" in capsys.readouterr().out
    assert run(["archive", "verify", place, "--json"]) == 0
    assert printed(capsys) == {"archives": 1, "problems": []}

    assert run(["archive", "restore", place, made["id"], "--dry-run", "--json"]) == 0
    assert printed(capsys)["archives"][0]["there"] == {"run": 2}
    world.call("experiments/delete", experiment_id=world.experiment)
    world.sql.execute("update experiments set last_update_time = 1 where name = %s", (world.name,))
    world.retain(rules={"experiments": {"softDeletedFor": "1d"}})
    assert run(["archive", "restore", place, "--run", one, "--dry-run", "--json"]) == 2
    assert printed(capsys)["archives"][0]["things"] == {"run": 1, "model": 0, "trace": 0, "version": 0}
    assert not world.exists(one)
    assert run(["archive", "restore", place, "--run", one]) == 0
    assert (
        f"{made['id']}: 1 runs, 0 logged models, 0 traces, 0 model versions came back"
        in capsys.readouterr().out
    )
    assert (world.stage(one), world.exists(other)) == ("active", False)

    path = next(Path(place).rglob("file-0"))
    path.write_bytes(b"other")
    assert run(["archive", "verify", place, "--json"]) == 1
    assert "file-0 is not what was archived" in printed(capsys)["problems"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "{place}"], "nothing is chosen"),
        (["create", "{place}", "--experiment", "nowhere"], "no experiment or run nowhere"),
        (["create", "{place}/none", "--run", "x"], "there is no such folder"),
        (["restore", "{place}"], "nothing is chosen"),
        (["restore", "{place}", "../../etc"], "is no archive's id"),
        (["restore", "{place}", "20260102T030405123456Z-0a1b2c3d"], "there is no archive 20260102T"),
        (["restore", "{place}", "--run", "x"], "holds the run x"),
        (["verify", "{place}", "20260102T030405123456Z-0a1b2c3d"], "there is no archive 20260102T"),
    ],
)
def test_mistakes(place: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert run(["archive", *(a.format(place=place) for a in arguments)]) == 1
    assert message in capsys.readouterr().err


def test_what_was_begun_and_never_finished_is_no_archive(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "20260102T030405123456Z-0a1b2c3d"
    file = Path(place) / "archives" / name / "tables" / "runs" / "00000.parquet"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half")
    assert run(["archive", "list", place, "--json"]) == 0
    assert printed(capsys) == {"archives": [], "unfinished": [name]}
    assert run(["archive", "verify", place]) == 0
    assert "0 archives" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        ("{destination: archives}", "destination"),
        ("{destination: s3://b/p, accessKeySecretRef: {name: a, key: b}}", "only one of the two keys"),
        ("{destination: s3://b/p, endpoint: https://s3.example.com}", "needs keys of its own"),
    ],
)
def test_mistakes_in_a_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], archive: str, message: str
) -> None:
    (tmp_path / "policy.yaml").write_text(
        "apiVersion: mlplatform.io/v1alpha1\nkind: RetentionPolicy\nmetadata: {name: p}\n"
        f"spec: {{rules: {{runs: {{softDeletedFor: 1d}}}}, archive: {archive}}}\n"
    )
    assert run(["validate", str(tmp_path)]) == 1
    text = capsys.readouterr()
    assert message in text.out + text.err
