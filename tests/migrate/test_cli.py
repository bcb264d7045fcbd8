"""`mlplatform migrate`: exit codes, JSON, messages."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
from pathlib import Path

import pytest

from mlflow_platform.cli.root import run
from tests.migrate.conftest import Small, Target


@pytest.fixture(autouse=True)
def here(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stack is the server `default`."""
    monkeypatch.setenv("MLPLATFORM_DATA", str(target.stack.folder.root))
    for name in ("MLFLOW_BACKEND_STORE_URI", "PGHOST", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def test_plan_move_again(small: Small, target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate", small.address, "--dry-run", "--json"]) == 2
    dry = json.loads(capsys.readouterr().out)
    assert (dry["rows"]["runs"], dry["objects"], dry["bytes"], dry["dryRun"]) == (3, 6, 600, True)
    assert run(["migrate", small.address]) == 0
    text = capsys.readouterr().out
    assert "1 experiments, 3 runs, 0 metric values" in text
    assert "6 artifacts, 600 bytes came" in text
    assert run(["migrate", small.address, "--plan"]) == 0
    assert "6 artifacts" in capsys.readouterr().out
    small.do(
        "insert into webhooks (webhook_id, name, url, workspace) values ('w', 'w', 'https://e', 'default')"
    )
    assert run(["migrate", small.address, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["left"][0]["count"] == 1


def test_the_page(small: Small, target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of docs/migrate.md, beside a database."""
    page = (Path(__file__).parents[2] / "docs" / "migrate.md").read_text("utf-8")
    (block,) = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    codes = []
    for line in block.splitlines():
        program, *arguments = shlex.split(line.replace("$PWD", str(small.file.parent)), comments=True)
        assert program == "mlplatform"
        codes.append(run(arguments))
    assert codes == [2, 0, 0]
    assert "there already: 9 rows, 6 artifacts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sqlite:///{folder}/none.db"], "there is no such file"),
        (["sqlite:///{folder}/text"], "cannot be read as an SQLite database"),
        (["sqlite:///{folder}/strange.db"], "is not a database of MLflow 1.0 or newer"),
        (["sqlite:///{folder}/newer.db"], "which the installed MLflow does not know"),
        (["{folder}/none"], "there is no such folder"),
        (["{folder}/text"], "is a file"),
        (["{folder}"], "is no file store"),
        (["{folder}", "--artifacts", "{folder}/none"], "there is no such folder"),
        (["postgresql://localhost/mlflow"], "a database of Postgres is not moved"),
        (["{folder}", "--prefix", "a/"], "names of registered models take no /"),
        (["ftp://localhost"], "ftp: is no source"),
        (["http://us@127.0.0.1:9"], "there is no password"),
    ],
)
def test_mistakes(
    empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "text").write_text("this is no database, " * 100)
    for name, statement in (
        ("strange", "create table experiments (a)"),
        ("newer", "update alembic_version set version_num = 'ffffffffffff'"),
    ):
        if name == "newer":
            shutil.copy(empty, tmp_path / "newer.db")
        with sqlite3.connect(tmp_path / f"{name}.db") as connection:
            connection.execute(statement)
        connection.close()
    assert run(["migrate", *(one.format(folder=tmp_path) for one in arguments)]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_server_that_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLPLATFORM_SOURCE_PASSWORD", "a secret that nobody may see")
    assert run(["migrate", "http://us@127.0.0.1:9"]) == 1
    said = capsys.readouterr().err
    assert "http://127.0.0.1:9 cannot be reached" in said
    assert "secret" not in said
