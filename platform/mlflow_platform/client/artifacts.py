"""Artifacts of durable URIs: copied into the spool, delivered with everything else, read back from both.

The registry of MLflow's artifact repositories is wrapped, so that whatever the scheme of a run's artifact
URI is, what is logged to it while the tracking URI is a durable one comes here.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import posixpath
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository, verify_artifact_path
from mlflow.utils.async_logging.run_operations import RunOperations

from mlflow_platform.client.courier import Courier
from mlflow_platform.client.server import Away

#: Files up to so many bytes are copied into the spool. Larger ones are uploaded at once, and copied only
#: where that fails; or hard-linked where that variable is set: the program must then not change them.
LARGE = 64 << 20
LINK = "MLPLATFORM_SPOOL_LINK"
#: Seconds that a large file waits for its run to be delivered.
_PATIENCE = 30.0
_log = logging.getLogger("mlflow_platform.client")
#: MLflow's layout below an experiment's location (store/tracking/sqlalchemy_store.py: create_run,
#: create_logged_model, _get_trace_artifact_location_tag).
_OWNER = re.compile(
    r"/(?:models/(?P<model>m-[0-9a-f]{32})|traces/(?P<trace>tr-[0-9a-f]+)|(?P<run>[0-9a-f]{32}))"
    r"/artifacts(?:/(?P<below>.*))?$"
)


def owner_of(uri: str) -> tuple[tuple[str, str] | None, str]:
    """The kind and id of what an artifact URI belongs to, None if it does not tell, and the path in it."""
    found = _OWNER.search(uri.rstrip("/"))
    if found is None:
        return None, ""
    kind = (
        found.lastgroup
        if found.lastgroup != "below"
        else next(k for k in ("model", "trace", "run") if found[k])
    )
    return (str(kind), found[str(kind)]), found["below"] or ""


def keep(courier: Courier, file: Path) -> str:
    """Copy a file into the spool; its name among the blobs. Raises `SpoolFull`, `OSError`."""
    courier.reserve(file.stat().st_size)
    folder = courier.spool.blobs / secrets.token_hex(16)
    folder.mkdir(mode=0o700)
    try:
        if os.environ.get(LINK) and file.stat().st_size > LARGE:
            with contextlib.suppress(OSError):
                (folder / file.name).hardlink_to(file.resolve())
        if not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            courier.count_refused()
        raise
    return f"{folder.name}/{file.name}"


class DurableArtifactRepository(ArtifactRepository):  # type: ignore[misc] # MLflow has no types
    """Artifacts below a URI, by way of the spool of `store`."""

    def __init__(self, artifact_uri: str, store: Any) -> None:
        super().__init__(artifact_uri, tracking_uri=f"durable+{store.server.uri}")
        self._store = store
        self._owner, self._below = owner_of(artifact_uri)
        self._plain: ArtifactRepository | None = None

    def log_artifact(self, local_file: str | Path, artifact_path: str | None = None) -> None:
        self._log([(Path(local_file), artifact_path or "")])

    def log_artifacts(self, local_dir: str | Path, artifact_path: str | None = None) -> None:
        self._log(list(_files(Path(local_dir), artifact_path or "")))

    def _log_artifact_async(
        self, filename: str, artifact_path: str | None = None, artifact: Any = None
    ) -> RunOperations:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, filename)
            if artifact is not None:
                artifact.save(file)
            self.log_artifact(file, artifact_path)
        return RunOperations([])

    def _log(self, files: list[tuple[Path, str]]) -> None:
        for file, path in files:
            try:
                self._log_one(file, path)
            except Exception as error:  # and goes on: one that cannot be read costs no other
                if self._store.strict:
                    raise
                self._store.courier.warn(f"an artifact was not logged: {type(error).__name__}: {error}")

    def _log_one(self, file: Path, path: str) -> None:
        verify_artifact_path(path or None)
        if self._is_uploaded(file, path):
            return
        blob = keep(self._store.courier, file)
        position = self._store._send(
            "artifact",
            owner=self._owner,
            uri=self.artifact_uri,
            below=self._below,
            path=path,
            blob=blob,
        )
        if position is not None:
            self._store.pending_artifacts[self._key(path, file.name)] = blob
            if len(self._store.pending_artifacts) % 1000 == 0:
                self._pending("")  # forgets what is delivered

    def _is_uploaded(self, file: Path, path: str) -> bool:
        """Upload a large file at once; whether that was done. What cannot be is copied after all."""
        if file.stat().st_size <= LARGE or os.environ.get(LINK):
            return False
        server = self._store.server
        try:
            # Its run must be there first, and the process that delivers may only just have been started.
            server.ask(lambda _: self._there().log_artifact(str(file), path or None), drain=_PATIENCE)
        except Exception as error:  # noqa: BLE001 - whatever it was, there is another way
            _log.debug("%s was not uploaded at once: %s", file, error)
            return False
        return True

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        try:
            found = {f.path: f for f in self._store.server.ask(lambda _: self._there().list_artifacts(path))}
        except Away:
            if not self._pending(path):
                raise
            found = {}
        prefix = f"{path.rstrip('/')}/" if path else ""
        for name, blob in self._pending(path).items():
            if name.startswith(prefix):
                first, _, rest = name[len(prefix) :].partition("/")
                size = None if rest else blob.stat().st_size
                found[prefix + first] = FileInfo(prefix + first, bool(rest), size)
        return sorted(found.values(), key=lambda f: f.path)

    def download_artifacts(self, artifact_path: str, dst_path: str | None = None) -> str:
        with tempfile.TemporaryDirectory() as folder:
            # Before the server is asked: what is delivered in between is there by then.
            overlay = Path(folder)
            for name, blob in self._pending(artifact_path).items():
                (overlay / name).parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(blob, overlay / name)
            pending = any(overlay.iterdir())
            target = dst_path or (tempfile.mkdtemp() if pending else None)
            try:
                found = self._store.server.ask(
                    lambda _: self._there().download_artifacts(artifact_path, target)
                )
            except Exception:
                if not pending:
                    raise
            if not pending:
                return str(found)
            shutil.copytree(overlay, str(target), dirs_exist_ok=True)
            return str(Path(str(target), artifact_path))

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        file = Path(self.download_artifacts(remote_file_path))
        shutil.copyfile(file, local_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        self._store.server.ask(lambda _: self._there().delete_artifacts(artifact_path))

    def _there(self) -> ArtifactRepository:
        """MLflow's own repository for where the server has them."""
        if self._plain is None:
            server = self._store.server
            uri = self.artifact_uri
            if self._owner is not None:
                kind, local = self._owner
                real, tracking = server.ids.real(local), server.tracking()
                if kind == "run":
                    uri = tracking.get_run(real).info.artifact_uri
                elif kind == "model":
                    uri = tracking.get_logged_model(real).artifact_location
                else:
                    uri = tracking.get_trace_info(real).tags["mlflow.artifactLocation"]
                uri = f"{uri.rstrip('/')}/{self._below}" if self._below else uri
            self._plain = plain_repository(uri, tracking_uri=server.uri)
        return self._plain

    def _key(self, path: str, name: str = "") -> str:
        root = "/".join(self._owner) if self._owner else self.artifact_uri.rstrip("/")
        return posixpath.join(root, self._below, path, name)

    def _pending(self, path: str | None) -> dict[str, Path]:
        """What this process logged at or below a path and is not delivered: path -> file."""
        root = self._key("").rstrip("/")
        wanted = self._key(path or "").rstrip("/")
        found = {}
        for key, blob in list(self._store.pending_artifacts.items()):
            file = self._store.courier.spool.blobs / blob
            if not file.exists():
                self._store.pending_artifacts.pop(key, None)
            elif key == wanted or key.startswith(f"{wanted}/"):
                found[key[len(root) + 1 :]] = file
        return found


def _files(folder: Path, path: str) -> Iterator[tuple[Path, str]]:
    """Every file below a folder, and the folder that it goes to."""
    for root, _, names in os.walk(folder):
        below = Path(root).relative_to(folder).as_posix()
        for name in names:
            yield Path(root, name), path if below == "." else posixpath.join(path, below)


def wrap_registry() -> None:
    """From now on MLflow's artifact repositories of durable tracking URIs are ours."""
    from mlflow.store.artifact import artifact_repository_registry as module

    registry = module._artifact_repository_registry
    if hasattr(registry, "plain"):
        return
    registry.plain = registry.get_artifact_repository
    registry.get_artifact_repository = _repository


def plain_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> ArtifactRepository:
    """MLflow's own repository."""
    from mlflow.store.artifact import artifact_repository_registry as module

    registry = module._artifact_repository_registry
    made = getattr(registry, "plain", registry.get_artifact_repository)
    return made(artifact_uri, tracking_uri, registry_uri)


def _repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> ArtifactRepository:
    from mlflow.tracking._tracking_service.utils import _get_store, get_tracking_uri

    tracking_uri = tracking_uri or get_tracking_uri()
    # `runs:` and `models:` ask the store for the real URI and come here again.
    if not tracking_uri.startswith("durable+") or str(artifact_uri).startswith(("runs:", "models:")):
        return plain_repository(artifact_uri, tracking_uri, registry_uri)
    return DurableArtifactRepository(str(artifact_uri), _get_store(tracking_uri))
