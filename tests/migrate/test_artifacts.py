"""Artifacts that are in a bucket, that cannot be read, or that the platform's own store refuses."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.adapters.s3 import S3Login, S3Store
from mlflow_platform.cli.root import run
from mlflow_platform.errors import BadInput, Fatal, Rejected
from mlflow_platform.migrate.move import Platform
from mlflow_platform.migrate.places import Places, parse_moves
from mlflow_platform.migrate.proxy import Proxy
from mlflow_platform.migrate.sources import open_source
from mlflow_platform.retention.roots import Roots
from mlflow_platform.server.dump import Sink
from tests.migrate.conftest import Small, Target
from tests.migrate.test_conflicts import left
from tests.migrate.test_migrate import migrate


def test_a_bucket(
    target: Target, small: Small, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the source's own keys; that one run's bucket is gone holds nothing else up."""
    where = target.stack.endpoints()
    monkeypatch.setenv("MLPLATFORM_DATA", str(target.stack.folder.root))
    for name in ("MLFLOW_BACKEND_STORE_URI", "PGHOST", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLPLATFORM_SOURCE_ACCESS_KEY_ID", where.s3_access_key)
    monkeypatch.setenv("MLPLATFORM_SOURCE_SECRET_ACCESS_KEY", where.s3_secret_key)
    mlruns = small.file.parent / "mlruns"
    gone, *runs = sorted(path.name for path in (mlruns / str(small.experiment)).iterdir())
    contents = {}
    for own in runs:
        for file in (mlruns / str(small.experiment) / own / "artifacts").iterdir():
            for name in (file.name, f"deep/ü {file.name}"):
                contents[own, name] = file.read_bytes() + name.encode()
                with target.store.writing(f"source-{small.prefix}/{own}/artifacts/{name}") as out:
                    out.write(contents[own, name])
    mlruns.rename(mlruns.with_name("elsewhere"))
    bucket = f"s3://{where.s3_bucket}/source-{small.prefix}"
    small.do("update experiments set artifact_location = ? where experiment_id = 7", bucket)
    small.do("update runs set artifact_uri = ? || '/' || run_uuid || '/artifacts'", bucket)
    small.do(
        "update runs set artifact_uri = 's3://was-deleted/' || run_uuid || '/artifacts' where run_uuid = ?",
        gone,
    )
    small.do(
        "update model_versions set run_id = ?, source = ?", runs[0], f"{bucket}/{runs[0]}/artifacts/deep"
    )
    arguments = ["migrate", small.address, "--artifacts-endpoint", where.s3_endpoint, "--json"]
    assert run([*arguments, "--artifacts-region", "us-east-1"]) == 1
    said = capsys.readouterr().out
    moved = json.loads(said)
    assert where.s3_secret_key not in said
    assert [(one["what"], one["names"]) for one in moved["left"]] == [
        ("artifacts of runs", [f"{gone} at s3://was-deleted/{gone}/artifacts"])
    ]
    assert "NoSuchBucket" in moved["left"][0]["why"]
    (here,) = moved["experiments"].values()
    assert moved["objects"] == len(contents) == 8
    for (own, name), content in contents.items():
        assert target.store.read(f"{here}/{own}/artifacts/{name}") == content
    version = target.client.get_model_version(f"{small.prefix}-model", "1")
    assert version.source == f"mlflow-artifacts:/{here}/{runs[0]}/artifacts/deep"


def test_a_file_that_cannot_be_read(target: Target, small: Small, tmp_path: Path) -> None:
    """A link to a folder is none of a run's files; it holds nothing else up, and is told."""
    own = small.run()
    (small.file.parent / "mlruns" / str(small.experiment) / own / "artifacts" / "link").symlink_to(tmp_path)
    moved = migrate(target, small.address, tmp_path / "work")
    assert left(moved) == {"artifacts": 1}
    assert f"link of run {own}" in str(moved.left[0])
    assert (moved.objects, moved.rows["runs"]) == (8, 4)


def test_a_folder_that_cannot_be_listed(
    target: Target, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in it stays, and is told; what is beside it comes."""
    own = small.run()
    closed = small.file.parent / "mlruns" / str(small.experiment) / own / "artifacts" / "closed"
    closed.mkdir()
    (closed / "file").write_text("x")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    moved = migrate(target, small.address, tmp_path / "work")
    assert left(moved) == {"artifacts": 1}
    assert f"closed/ of run {own}" in str(moved.left[0])
    assert (moved.objects, moved.rows["runs"]) == (8, 4)


@pytest.mark.parametrize("scheme", ["", "sqlite:///", "file://"])
def test_a_source_where_nobody_may_look(tmp_path: Path, scheme: str) -> None:
    """The system says no to the name itself, as to one in a closed folder: a message, no traceback."""
    name = tmp_path / ("x" * 300)
    with pytest.raises(BadInput, match="File name too long") as error:
        open_source(f"{scheme}{name}", tmp_path)
    assert error.value.problem.remedy
    places = Places(lambda _: pytest.fail("it cannot be opened"), base=tmp_path)
    assert "cannot be read by this login" in str(places.find(str(name)))
    with pytest.raises(BadInput, match="File name too long"):
        parse_moves((f"s3://old={name}",))


class Refusing(S3Store):
    """The platform's store, whose keys may not write."""

    def writing(self, key: str, size: int | None = None) -> AbstractContextManager[Sink]:
        raise Rejected(f"{self.uri}/{key}: PutObject: AccessDenied", code="AccessDenied")


def test_a_store_of_the_platforms_that_refuses(target: Target, small: Small, tmp_path: Path) -> None:
    """It is not the source's fault, and no row comes without its artifacts."""
    where = target.stack.endpoints()
    login = S3Login(where.s3_endpoint, "us-east-1", where.s3_access_key, where.s3_secret_key)
    working = target.platform
    target.platform = Platform(working.database, Roots(Refusing(target.store.uri, login)), working.auth)
    with pytest.raises(Fatal, match="PutObject: AccessDenied"):
        migrate(target, small.address, tmp_path / "work")
    assert not target.one("select count(*) from experiments where name like %s", f"{small.prefix}%")
    target.platform = working
    assert migrate(target, small.address, tmp_path / "work").objects == 6


class _Elsewhere(BaseHTTPRequestHandler):
    """What stands before many servers: it sends to the encrypted address. Now and then it is not there."""

    failures = 0

    def do_GET(self) -> None:
        if self.path.startswith("/busy/") and type(self).failures:
            type(self).failures -= 1
            self._say(503, b"")
        elif self.path.startswith("/busy/"):
            self._say(200, b'{"files": [{"path": "a", "is_dir": false, "file_size": 3}]}')
        else:
            self._say(301, b"<html>moved</html>")

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Location", "https://mlflow.example.com/health?a=b")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not on the terminal."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_sends_elsewhere(elsewhere: str) -> None:
    """The page that says so must not pass for an artifact."""
    proxy = Proxy(elsewhere, "us", "a secret")
    with pytest.raises(BadInput, match=r"redirects to https://mlflow\.example\.com\n"):
        proxy.probe()
    with pytest.raises(Rejected, match="answered 301"):
        list(proxy.files("7/a"))
    with pytest.raises(Rejected, match="answered 301"), proxy.reading("7/a/file"):
        pass
    proxy.close()


def test_a_server_that_is_busy_while_it_lists(elsewhere: str) -> None:
    proxy = Proxy(f"{elsewhere}/busy", None, None)
    _Elsewhere.failures = 2
    assert list(proxy.files("7/")) == [("7/a", 3)]
    assert _Elsewhere.failures == 0
    proxy.close()
