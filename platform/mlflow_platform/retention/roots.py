"""Where artifacts are: from the URIs in MLflow's tables to a store that we may delete from.

A root is deleted from only while it bears our marker: a database that was copied or restored still names
the original's objects, and its installation id is another one.
"""

from __future__ import annotations

import json
import posixpath
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from mlflow_platform.adapters.object_store import ObjectStore
from mlflow_platform.errors import BadInput, Fatal
from mlflow_platform.retention.journal import Installation

#: The object that says whose a root is.
MARKER = ".mlplatform-installation"
#: Path of the artifact proxy in an address (mlflow/server/handlers.py, `_get_rest_path`).
_PROXY = re.compile(r"^/?api/2\.0/mlflow-artifacts/artifacts/")


@dataclass(frozen=True, slots=True)
class Place:
    """Objects of one thing: a root's URI, and the prefix below it, which ends in a slash."""

    root: str
    prefix: str


@dataclass(frozen=True)
class Roots:
    """The stores that may be deleted from."""

    destination: ObjectStore | None
    """Where the server's proxy keeps `mlflow-artifacts:` URIs (its --artifacts-destination)."""
    direct: Sequence[ObjectStore] = field(default_factory=tuple)
    """Where clients write by themselves: artifact locations of experiments."""

    @property
    def all(self) -> dict[str, ObjectStore]:
        """Every store by its URI."""
        found = [*([self.destination] if self.destination else []), *self.direct]
        return {store.uri: store for store in found}

    def place(self, uri: str, own: str) -> Place | str:
        """Where a thing's artifacts are, or why they cannot be deleted.

        `own` is the thing's id. It must be a part of the path: a location without it may be shared.
        """
        parts = urlsplit(uri)
        path = unquote(parts.path) if parts.scheme == "file" else parts.path
        normal = posixpath.normpath(path).lstrip("/")
        if normal in ("", ".") or normal != path.strip("/"):
            return f"{uri} is no place for artifacts"  # a key in S3 may hold // or .., and means another one
        if own not in normal.split("/"):
            return f"{uri} may hold more than the artifacts of {own}"
        if parts.scheme == "mlflow-artifacts":
            if self.destination is None:
                return "its artifacts go through the server's proxy, whose store is not given"
            return Place(self.destination.uri, _PROXY.sub("", normal) + "/")
        full = (
            f"file:///{normal}"
            if parts.scheme in ("", "file")
            else f"{parts.scheme}://{parts.netloc}/{normal}"
        )
        for root in self.all:
            if full.startswith(root + "/"):
                return Place(root, full[len(root) + 1 :] + "/")
        return f"no store is given for {parts.scheme or 'file'}://{parts.netloc}"

    def close(self) -> None:
        for store in self.all.values():
            store.close()


def owner(store: ObjectStore) -> uuid.UUID | None:
    """The installation that a root's marker names; None for a root without one."""
    body = store.read(MARKER)
    if body is None:
        return None
    try:
        return uuid.UUID(json.loads(body)["installation"])
    except (ValueError, KeyError, TypeError):
        raise Fatal(
            f"{store.uri}/{MARKER} cannot be read as a marker",
            remedy="look at it, and delete it if it is no one's",
        ) from None


def claim(store: ObjectStore, installation: Installation, *, allowed: bool) -> None:
    """See that a root is ours; mark one that is nobody's. Raises `BadInput` where it is another's.

    A database that is known to be a copy marks nothing unless `allowed`: the root may be the original's,
    which has never run retention.
    """
    found = owner(store)
    if found is None:
        if installation.copied_at is not None and not allowed:
            raise BadInput(
                f"this database is a copy, and {store.uri} bears no marker: it may be the original's",
                remedy="if it is this copy's own, mark it once with `mlplatform retention run --claim`",
            )
        store.create(MARKER, json.dumps({"installation": str(installation.id)}).encode())
        found = owner(store)
    if found != installation.id:
        raise BadInput(
            f"{store.uri} belongs to the installation {found}, not to this database's {installation.id}: "
            "nothing is deleted",
            remedy="a restored or copied database must not delete the original's objects; if the original "
            f"is gone for good, delete the object {MARKER} there",
        )
