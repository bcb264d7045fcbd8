"""Platforms to back up and to restore into: databases of their own, artifacts in folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlflow_platform.adapters.files import FileStore
from mlflow_platform.adapters.postgres import Database
from mlflow_platform.adapters.trees import FileTree
from mlflow_platform.backup.create import Platform
from mlflow_platform.backup.keys import ServerKeys
from mlflow_platform.backup.restore import Target
from mlflow_platform.backup.sealing import Key
from mlflow_platform.backup.vault import Vault
from tests.backup import databases
from tests.backup.databases import Rows, Server, webhook_key

KEYS = ServerKeys("a passphrase", webhook_key())


@dataclass(frozen=True)
class Place(Target):
    """A target, and the folder of its roots."""

    folder: Path = Path()


@dataclass
class World:
    """A platform without its server, and the place of its backups."""

    server: Server
    folder: Path
    platform: Platform
    vault: Vault
    rows: Rows
    targets: list[Place] = field(default_factory=list)

    @property
    def objects(self) -> dict[Path, bytes]:
        """Every artifact."""
        return contents(self.folder)

    def target(self, *, shared: bool = False) -> Place:
        """A new platform as a first start and a deployment's smoke test leave it; `shared`: with one database
        for both schemas."""
        number = len(self.targets)
        roots = [self.folder.parent / f"target-{number}" / n for n in ("proxied", "direct")]
        for root in roots:
            root.mkdir(parents=True)
        platform = Platform(
            self.server.database("template_both" if shared else "template_tracking"),
            None if shared else self.server.database("template_auth"),
            FileTree(str(roots[0])),
            [FileTree(str(roots[1]))],
            KEYS,
        )
        moves = {self.platform.direct[0].uri: platform.direct[0].uri}
        databases.run(platform.tracking, databases.FIRST_START)
        databases.run(platform.auth or platform.tracking, databases.ADMIN)
        stores = [FileStore(str(r)) for r in roots]
        made = Place(platform, ("admin", "new password"), moves, stores, roots[0].parent)
        self.targets.append(made)
        return made


def contents(folder: Path) -> dict[Path, bytes]:
    return {
        p.relative_to(folder): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and ".mlplatform-" not in str(p)
    }


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with databases.started() as found:
        yield found


@pytest.fixture
def make_world(server: Server, tmp_path: Path) -> Callable[..., World]:
    """A populated platform; `key` encrypts its backups, `shared` has one database for both schemas,
    `tracking` is one that is there."""

    def make(*, key: Key | None = None, shared: bool = False, tracking: Database | None = None) -> World:
        folder = tmp_path / "source"
        for name in ("proxied", "direct"):
            (folder / name).mkdir(parents=True)
        direct = FileTree(str(folder / "direct"))
        tracking = tracking or server.database("template_both" if shared else "template_tracking")
        auth = None if shared else server.database("template_auth")
        rows = databases.populate(
            tracking, auth or tracking, direct.uri, kek=KEYS.kek_passphrase, webhook=KEYS.webhook_key
        )
        for root, keys in (("proxied", rows.proxied), ("direct", rows.direct)):
            for key_ in keys:
                path = folder / root / key_
                path.parent.mkdir(parents=True)
                path.write_bytes(key_.encode())
        platform = Platform(tracking, auth, FileTree(str(folder / "proxied")), [direct], KEYS)
        vault = Vault(FileTree(str(tmp_path / "vault"), create=True), key)
        return World(server, folder, platform, vault, rows)

    return make


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()
