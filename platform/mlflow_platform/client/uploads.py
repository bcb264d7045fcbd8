"""From copies of files in a spool to artifacts where the server keeps them."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

from mlflow_platform.client.ids import Ids
from mlflow_platform.client.spool import Record

_KNOWN_LOCATIONS = 1000


class Uploads:
    """Brings the files below `blobs` to the artifacts of the server that MLflow knows as `uri`.

    `store` is MLflow's tracking store of that server: it says where the artifacts are.
    """

    def __init__(self, blobs: Path, store: Any, ids: Ids, uri: str) -> None:
        self._blobs = blobs
        self._store = store
        self._ids = ids
        self._uri = uri
        self._locations: OrderedDict[tuple[str, str], str] = OrderedDict()

    def upload(self, r: Record) -> None:
        """Send the file of an `artifact` record, with the server's ids in it, and drop the copy.

        Raises what MLflow's repository does; the copy stays then.
        """
        from mlflow_platform.client.artifacts import plain_repository

        blob = self._blobs / r["blob"]
        if not blob.exists():
            # Delivered before: the copy goes when the server has it.
            return
        folder = blob.parent
        if blob.name == "MLmodel":
            content = blob.read_bytes()
            if (rewritten := self._ids.rewrite(content)) != content:
                folder = blob.parent / "rewritten"
                folder.mkdir(exist_ok=True)
                (folder / blob.name).write_bytes(rewritten)
        repository = plain_repository(self._location(r), tracking_uri=self._uri)
        repository.log_artifact(str(folder / blob.name), r["path"] or None)
        with contextlib.suppress(OSError):
            for path in sorted(blob.parent.rglob("*"), reverse=True):
                path.unlink() if path.is_file() or path.is_symlink() else path.rmdir()
            blob.parent.rmdir()

    def _location(self, r: Record) -> str:
        """Where the server keeps the artifacts of a run, model or trace; what a client that was offline
        thought may be wrong."""
        if r["owner"] is None:
            return str(r["uri"])
        kind, local = r["owner"]
        if (known := self._locations.get((kind, local))) is None:
            real = self._ids.real(local)
            if kind == "run":
                known = self._store.get_run(real).info.artifact_uri
            elif kind == "model":
                known = self._store.get_logged_model(real).artifact_location
            else:
                known = self._store.get_trace_info(real).tags["mlflow.artifactLocation"]
            self._locations[kind, local] = known
            if len(self._locations) > _KNOWN_LOCATIONS:
                self._locations.popitem(last=False)
        return f"{known.rstrip('/')}/{r['below']}" if r.get("below") else str(known)
