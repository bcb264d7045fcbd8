"""Manifests: an archive is whole when its manifest is there, which is written last and holds every digest.

Below a destination:

    manifests/ID.json                        the manifest
    archives/ID/tables/TABLE/00000.parquet   rows, and the list of objects as the table `objects`
    archives/ID/artifacts/KIND/OWNER/...     artifacts, below KIND `run`, `model`, `trace` or `trace-archive`
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_platform.adapters.object_store import ObjectStore
from mlflow_platform.errors import BadInput

FORMAT = "mlplatform-archive/1"
#: An archive's id: when it was begun (UTC, to the microsecond), and eight random hexadecimal digits.
ID = re.compile(r"^\d{8}T\d{12}Z-[0-9a-f]{8}$")
#: Columns of the table of objects. `path` is below the owner's artifact URI, `file` below the archive.
OBJECTS = {
    "kind": "string",
    "owner": "string",
    "uri": "string",
    "path": "string",
    "file": "string",
    "bytes": "int64",
    "sha256": "string",
}

REMEDY = "take it from a copy of the destination; no row of this archive was restored"


class Corrupted(BadInput):
    """Something in an archive is not what the manifest says."""


@dataclass(frozen=True, slots=True)
class File:
    """One Parquet file: its path below the archive, rows, bytes and digest."""

    path: str
    table: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an archive holds. Times are ISO 8601, UTC."""

    id: str
    created: str
    revision: str
    """MLflow's schema revision, to which the tables belong."""
    mlflow: str
    installation: str | None
    """Retention's installation id of the source, where it had one."""
    policy: str | None
    experiments: Sequence[Mapping[str, Any]]
    """`id`, `name`, `workspace`, and the number of `runs`, of those of which something is here."""
    counts: Mapping[str, int]
    """Rows by table."""
    objects: int
    bytes: int
    """Bytes of the artifacts."""
    files: Sequence[File] = field(default_factory=tuple)

    @property
    def folder(self) -> str:
        """Where the archive's files are, below the destination."""
        return f"archives/{self.id}/"

    def of(self, table: str) -> list[File]:
        return [one for one in self.files if one.table == table]

    def as_json(self) -> dict[str, Any]:
        found = {"format": FORMAT, **self.__dict__}
        found["files"] = [{name: getattr(one, name) for name in one.__slots__} for one in self.files]
        return {**found, "sha256": _digest(found)}


def _digest(values: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in values.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def key(archive: str) -> str:
    """Where an archive's manifest is."""
    return f"manifests/{archive}.json"


def write(store: ObjectStore, manifest: Manifest) -> None:
    """Make an archive whole."""
    body = json.dumps(manifest.as_json(), indent=1, ensure_ascii=False).encode()
    with store.writing(key(manifest.id), len(body)) as out:
        out.write(body)


def read(store: ObjectStore, archive: str) -> Manifest:
    """One archive's manifest. Raises `BadInput` where there is none or of another format; `Corrupted`."""
    if not ID.match(archive):
        raise BadInput(
            f"{archive!r} is no archive's id",
            remedy="`mlplatform archive list` shows the ids of a destination",
        )
    name = f"{store.uri}/{key(archive)}"
    body = store.read(key(archive))
    if body is None:
        raise BadInput(
            f"there is no archive {archive} in {store.uri}",
            remedy="`mlplatform archive list` shows what is there; one without a manifest was never finished",
        )
    try:
        values = json.loads(body)
        if not isinstance(values, dict) or values.get("sha256") != _digest(values):
            raise Corrupted(f"{name} is not what was written", remedy=REMEDY)
        if values.pop("format") != FORMAT:
            raise BadInput(
                f"{name} is of a format that this version does not know", remedy=f"known: {FORMAT}"
            )
        del values["sha256"]
        files = [File(**one) for one in values.pop("files")]
        return Manifest(**values, files=files)
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupted(f"{name} cannot be read as a manifest", remedy=REMEDY) from error


def ids(store: ObjectStore) -> Iterator[str]:
    """The archives of a destination, oldest first."""
    after: tuple[str, str] | None = None
    while True:
        page = store.page("manifests/", after)
        for one in page.found:
            name = one.key.removeprefix("manifests/").removesuffix(".json")
            if ID.match(name):
                yield name
        if page.after is None:
            return
        after = page.after


def unfinished(store: ObjectStore) -> list[str]:
    """Archives that were begun and have no manifest: under way, or of a process that was killed."""
    whole = set(ids(store))
    found: list[str] = []
    after: tuple[str, str] | None = None
    while True:
        page = store.page("archives/", after, 1)
        if not page.found:
            return found
        folder = page.found[0].key.split("/")[1]
        if ID.match(folder) and folder not in whole:
            found.append(folder)
        after = (f"archives/{folder}0", "")  # `0` is what follows the slash: behind all that is in the folder
