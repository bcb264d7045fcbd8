"""`mlplatform backup`: documents, options, exit codes, JSON, messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_platform.adapters.postgres import Database
from mlflow_platform.backup.sealing import Key
from mlflow_platform.cli.root import run
from tests.backup.conftest import KEYS, Place, World, contents
from tests.backup.databases import one
from tests.backup.test_drill import content_of, damage

KEY = "ab" * 32


def server(platform: Any, name: str) -> dict[str, Any]:
    """A TrackingServer document of a platform."""
    database = {"uriSecretRef": {"name": name, "key": "tracking"}}
    if platform.auth is not None:
        database["authUriSecretRef"] = {"name": name, "key": "auth"}
    return {
        "apiVersion": "mlplatform.io/v1alpha1",
        "kind": "TrackingServer",
        "metadata": {"name": name},
        "spec": {
            "trackingUri": "http://127.0.0.1:1",
            "credentials": {
                "usernameSecretRef": {"name": name, "key": "user"},
                "passwordSecretRef": {"name": name, "key": "password"},
            },
            "database": database,
            "artifacts": {
                "destination": platform.proxied.uri,
                "roots": [tree.uri for tree in platform.direct],
            },
        },
    }


def secret(folder: Path, name: str, **values: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    for key, value in values.items():
        path = folder / name / key
        path.write_text(value)
        path.chmod(0o600)


@pytest.fixture
def documents(
    make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[World, Place, list[str]]:
    """A platform, an empty one, and the options that name the documents of both and of a schedule."""
    for name in ("MLFLOW_BACKEND_STORE_URI", "PGHOST", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_CRYPTO_KEK_PASSPHRASE", KEYS.kek_passphrase)
    monkeypatch.setenv("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", KEYS.webhook_key)
    world = make_world(key=Key.parse(KEY, "here"))
    target = world.target()
    secrets = tmp_path / "secrets"
    all_ = []
    for name, platform in (("old", world.platform), ("new", target.platform)):
        all_.append(server(platform, name))
        assert platform.auth is not None
        secret(
            secrets,
            name,
            tracking=platform.tracking.uri,
            auth=platform.auth.uri,
            user="admin",
            password="a new password",
        )
    secret(secrets, "backup-key", key=KEY + "\n")
    secret(secrets, "scratch", uri=world.server.database().uri)
    all_.append(
        {
            "apiVersion": "mlplatform.io/v1alpha1",
            "kind": "BackupSchedule",
            "metadata": {"name": "nightly"},
            "spec": {
                "server": "old",
                "destination": {"uri": world.vault.tree.uri},
                "encryptionKeySecretRef": {"name": "backup-key", "key": "key"},
                "keep": {"last": 1},
                "drill": {
                    "schedule": "@weekly",
                    "databaseUriSecretRef": {"name": "scratch", "key": "uri"},
                },
            },
        }
    )
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(all_))
    return world, target, ["-f", str(tmp_path / "all.yaml"), "--secrets", str(secrets)]


def test_by_documents_there_and_back(
    documents: tuple[World, Place, list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    world, target, options = documents

    def printed() -> Any:
        text = capsys.readouterr()
        assert KEY not in text.out + text.err
        return json.loads(text.out)

    scheduled = [*options, "--schedule", "nightly"]
    assert run(["backup", "create", *scheduled, "--json"]) == 0
    made = printed()
    assert (made["objects"], made["copied"], sorted(made["keys"])) == (8, 8, ["gateway", "webhook"])
    assert run(["backup", "list", *scheduled, "--json"]) == 0
    assert [one["name"] for one in printed()] == [made["name"]]
    assert run(["backup", "verify", *scheduled, "--json"]) == 0
    assert printed()["contents"] == 8

    key = tmp_path / "key"
    key.write_text(KEY)
    old, new = world.platform.direct[0].uri, target.platform.direct[0].uri
    by_hand = [*options, "--at", world.vault.tree.uri, "--key-file", str(key), "--server", "new"]
    assert run(["backup", "restore", *by_hand]) == 1
    assert f"--map {old}=NEW" in capsys.readouterr().err
    assert run(["backup", "restore", *by_hand, "--map", f"{old}={new}", "--json"]) == 0
    assert printed()["objects"] == 8
    assert contents(target.folder) == world.objects
    assert one(target.platform.tracking, "select count(*) from runs") == 6
    assert run(["backup", "restore", made["name"], *by_hand, "--map", f"{old}={new}"]) == 1
    assert "the tracking database is not empty" in capsys.readouterr().err


def die(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_damaged_backup_is_exit_code_1(
    documents: tuple[World, Place, list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, _, options = documents
    scheduled = [*options, "--schedule", "nightly"]
    assert run(["backup", "create", *scheduled]) == 0
    assert run(["backup", "drill", *scheduled]) == 0
    out = capsys.readouterr().out
    assert "9 name artifacts, 0 have none, 0 name places that are not backed up" in out
    assert out.count("noticed: a changed byte of ") == 3
    # A database of a document is for every drill, also for the one after one that was killed; no other is.
    (scratch,) = (Path(options[3]) / "scratch").iterdir()
    database = Database(scratch.read_text().strip())
    assert one(database, "select count(*) from pg_tables where schemaname in ('public', 'mlplatform')") == 0
    with monkeypatch.context() as killed:
        killed.setattr("mlflow_platform.backup.drill._rows", die)
        assert run(["backup", "drill", *scheduled]) == 130
    assert one(database, "select count(*) from runs") == 6
    assert run(["backup", "drill", *scheduled]) == 0
    # Somebody's table stays, whether or not MLflow has one of its name.
    for name in ("invoices", "runs"):
        with closing(database.connect(autocommit=True)) as connection:
            connection.execute(f"create table {name} as select 1 as id")
        assert run(["backup", "drill", *scheduled]) == 1
        assert f"the scratch database is not empty: it has {name}" in capsys.readouterr().err
        assert one(database, f"select count(*) from {name}") == 1
        with closing(database.connect(autocommit=True)) as connection:
            connection.execute(f"drop table {name}")
    from mlflow_platform.backup import manifest

    made = manifest.read(world.vault, world.vault.finished()[0])
    damage(content_of(world, made, world.rows.direct[0]))
    assert run(["backup", "verify", *scheduled]) == 1
    assert f"problem: {world.rows.direct[0]}" in capsys.readouterr().err
    monkeypatch.setenv("SCRATCH", world.server.database().uri)
    assert run(["backup", "drill", *scheduled, "--database", "SCRATCH", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create"], "it is not said where backups are"),
        (["list", "--at", "/x", "--schedule", "y"], "say it twice"),
        (["list", "--schedule", "none"], "there is no BackupSchedule 'none'"),
        (["list", "--at", "backups"], "is no folder for objects"),
        (["list", "--at", "{tmp}/none"], "there is no such folder"),
        (["create", "--at", "/dev/null/x"], "/dev/null/x: Not a directory"),
        (["list", "--at", "s3://b", "--endpoint", "not a url"], "Invalid endpoint"),
        (["verify", "--at", "{tmp}"], "there are no backups in file://"),
        (["create", "--at", "{tmp}", "--keep-for", "soon"], "this is no age"),
        (["create", "--at", "{tmp}", "--server", "other"], "there is no TrackingServer document 'other'"),
        (["restore", "--at", "{tmp}", "--map", "x"], "this is no pair"),
        (["drill", "--at", "{tmp}", "--key-file", "{tmp}/none"], "none: No such file"),
    ],
)
def test_mistakes_have_one_message(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["backup", *(a.replace("{tmp}", str(tmp_path)) for a in arguments)]) == 1
    found = capsys.readouterr()
    assert message in found.err
    assert found.err.startswith("error: ")
    assert not found.out
