"""What a backup holds, as its manifest says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mlflow_platform.backup.vault import BACKUPS, MANIFEST, Vault
from mlflow_platform.errors import BadInput
from mlflow_platform.server import dump

#: Version of the manifest: of another one, nothing is read.
FORMAT = 1
#: The databases in the order in which they are dumped: a grant may name what came later, never what is not.
DATABASES = ("auth", "tracking")


@dataclass(frozen=True)
class Root:
    """The objects of an artifact root. `proxied`: `mlflow-artifacts:` addresses mean this one.

    `size` in bytes; `index` is a stream of the backup, `sha256` the digest of its text.
    """

    uri: str
    proxied: bool
    index: str
    objects: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Sample:
    """A secret as MLflow has encrypted it, to try keys with; nothing without them. Values are base64."""

    kind: str
    value: str
    version: int = 0


@dataclass(frozen=True)
class Manifest:
    """`revisions`: schema -> revision. `keys`: fingerprints of MLflow's own keys, where they were given."""

    name: str
    created: str
    seconds: float
    mlflow: str
    platform: str
    databases: tuple[str, ...]
    revisions: Mapping[str, str | None]
    rows: int
    roots: tuple[Root, ...]
    copied: int
    copied_size: int
    keys: Mapping[str, str] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()

    @property
    def objects(self) -> int:
        return sum(r.objects for r in self.roots)

    @property
    def size(self) -> int:
        """Bytes of all objects."""
        return sum(r.size for r in self.roots)

    def text(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def parse(cls, text: bytes) -> Manifest:
        """Raises `BadInput` if it is none, or of another version."""
        try:
            found: dict[str, Any] = json.loads(text)
            if found.pop("format") != FORMAT:
                raise BadInput("the backup is of another version of this program", remedy="use that version")
            found["roots"] = tuple(Root(**r) for r in found["roots"])
            found["samples"] = tuple(Sample(**s) for s in found["samples"])
            found["databases"] = tuple(found["databases"])
            return cls(**found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{MANIFEST} is not a backup's: {error}", remedy="name another backup") from error


def read(vault: Vault, name: str) -> Manifest:
    """The manifest of a backup that is there."""
    return Manifest.parse(vault.read(f"{BACKUPS}{name}/{MANIFEST}"))


def databases(vault: Vault, manifest: Manifest) -> dict[str, dump.Manifest]:
    """What was dumped, by database, in the order of the dumps."""
    return {
        name: dump.Manifest.parse(vault.read(f"{BACKUPS}{manifest.name}/{name}/{dump.MANIFEST}"))
        for name in manifest.databases
    }
