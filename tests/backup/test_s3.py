"""Backups from a bucket to another one, with logins that reach no further than they need."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.adapters.s3 import S3Login, S3Store, S3Tree
from mlflow_platform.adapters.trees import Stat, Tree, tree
from mlflow_platform.backup.create import Platform, create
from mlflow_platform.backup.drill import drill
from mlflow_platform.backup.restore import Target, restore
from mlflow_platform.backup.sealing import Key
from mlflow_platform.backup.vault import Vault
from mlflow_platform.backup.verify import verify
from mlflow_platform.errors import PlatformError, Rejected
from mlflow_platform.local.credentials import Credentials, ensure
from mlflow_platform.local.folder import Folder, write_private
from mlflow_platform.local.ports import choose
from mlflow_platform.local.seaweedfs import SeaweedFS
from mlflow_platform.local.state import Options, Settings
from tests.backup.conftest import World
from tests.backup.databases import opened
from tests.backup.test_elsewhere import ADDRESSES

#: Login -> what it may do (SeaweedFS' identities).
LOGINS = {
    "server": ["Read:artifacts", "List:artifacts", "Read:clients", "List:clients"],
    "keeper": ["Read:backups", "List:backups", "Write:backups"],
    "reader": ["Read:backups", "List:backups"],
    "new": ["Read:restored", "List:restored", "Write:restored", "Tagging:restored"],
}


@dataclass(frozen=True)
class Store:
    """A SeaweedFS with buckets and logins."""

    seaweedfs: SeaweedFS

    def login(self, name: str) -> S3Login:
        return S3Login(self.seaweedfs.endpoint, "us-east-1", name, f"{name}-secret")

    def tree(self, uri: str, name: str) -> S3Tree:
        return S3Tree(uri, self.login(name))

    @contextmanager
    def client(self) -> Iterator[Any]:
        with closing(self.seaweedfs.client()) as client:
            yield client

    def put(self, bucket: str, key: str, data: bytes) -> None:
        with self.client() as client:
            client.put_object(Bucket=bucket, Key=key, Body=data)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = Folder(tmp_path_factory.mktemp("s3"))
    credentials: Credentials = ensure(folder, has_data=False)
    made = Settings.new(Options())
    seaweedfs = SeaweedFS(folder, Settings(made.id, choose({}, mlflow=0)), credentials)
    command = seaweedfs.prepare(lambda *_: None, lambda _: None)
    identities = folder.root / "s3" / "identities.json"
    found = json.loads(identities.read_text())
    found["identities"] += [
        {
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": f"{name}-secret"}],
            "actions": actions,
        }
        for name, actions in LOGINS.items()
    ]
    write_private(identities, json.dumps(found))
    with (folder.root / "log").open("wb") as log:
        process = subprocess.Popen(
            command.arguments, cwd=command.directory, env=dict(command.environment), stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 120
        while not seaweedfs.ready():
            assert process.poll() is None, (folder.root / "log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with closing(seaweedfs.client()) as client:
            for bucket in ("artifacts", "clients", "backups", "restored", "versioned"):
                client.create_bucket(Bucket=bucket)
        yield Store(seaweedfs)
    finally:
        process.terminate()
        process.wait(30)


def in_buckets(world: World, store: Store) -> Platform:
    """The world's platform, with what was in its folders in buckets."""
    for name, bucket in (("proxied", "artifacts"), ("direct", "clients")):
        folder = world.folder / name
        for path in folder.rglob("*"):
            if path.is_file():
                store.put(bucket, str(path.relative_to(folder)), path.read_bytes())
    for table, column in ADDRESSES:
        name = table.split(" ")[0]
        statement = f"update {name} set {column} = replace({column}, %s, 's3://clients')"
        with opened(world.platform.tracking) as connection:
            connection.execute(statement, (world.platform.direct[0].uri,))
    roots = [store.tree(f"s3://{bucket}", "server") for bucket in ("artifacts", "clients")]
    return replace(world.platform, proxied=roots[0], direct=roots[1:])


def test_there_and_elsewhere_without_a_look_at_the_source(
    make_world: Callable[..., World], store: Store
) -> None:
    world = make_world(key=Key(b"k" * 32))
    platform = in_buckets(world, store)
    large = os.urandom(33 * 1024 * 1024)  # more than a part
    store.put("artifacts", "1/large", large)
    keeper = Vault(store.tree("s3://backups/mlflow", "keeper"), world.vault.key)
    made = create(platform, keeper)
    assert made.objects == 9

    # The drill's login reads the backups, and nothing else.
    reader = Vault(store.tree("s3://backups/mlflow", "reader"), world.vault.key)
    for bucket in ("artifacts", "clients"):
        with pytest.raises(PlatformError, match="AccessDenied"):
            list(store.tree(f"s3://{bucket}", "reader").listed())
    with pytest.raises(Rejected, match="AccessDenied"), reader.writing("x"):
        pass

    def reach(uri: str) -> Tree:
        if not uri.startswith("s3://"):
            raise Rejected("not on this machine")
        return tree(uri, store.login("reader"))

    report = drill(reader, made.name, world.server.database(), world.server.database(), reach=reach)
    assert report.passed, (report.problems, report.read.problems)
    assert report.notes == []
    assert report.read.contents == 9

    # Restored with a login that cannot read the source either.
    target = world.target()
    there = {
        f"s3://restored/{name}": store.tree(f"s3://restored/{name}", "new") for name in ("new", "direct")
    }
    proxied, direct = there.values()
    restored = replace(target.platform, proxied=proxied, direct=[direct], auth=world.server.database())
    moves = {"s3://clients": direct.uri}
    stores = [S3Store(uri, store.login("new")) for uri in there]
    restore(Target(restored, target.admin, moves, stores), reader, made.name)
    for bucket in ("artifacts", "clients"):
        with pytest.raises(PlatformError, match="AccessDenied"):
            list(store.tree(f"s3://{bucket}", "new").listed())
    # No row names an old bucket, and whatever one names opens in the new one.
    with opened(restored.tracking) as connection:
        rows = [
            uri
            for table, column in ADDRESSES
            for (uri,) in connection.execute(f"select {column}::text from {table}")
        ]
    assert not [uri for uri in rows if "s3://clients" in uri or "s3://artifacts" in uri]
    opens = 0
    for folder, tree_, address, keys in (
        ("proxied", proxied, "mlflow-artifacts:/", world.rows.proxied),
        ("direct", direct, f"{direct.uri}/", world.rows.direct),
    ):
        for key in keys:
            opens += any(f"{address}{key}".startswith(f"{uri}/") for uri in rows)
            with tree_.reading(key) as (_, source):
                assert source.read() == (world.folder / folder / key).read_bytes()
    assert opens == len(world.rows.proxied) + len(world.rows.direct) == 8
    with proxied.reading("1/large") as (_, source):
        assert source.read() == large


class Late(S3Tree):
    """A bucket in which an object is replaced, and another one deleted, between the listing and the copy."""

    def __init__(self, store: Store, uri: str) -> None:
        login = S3Login(
            store.seaweedfs.endpoint,
            "us-east-1",
            store.seaweedfs.credentials.s3_access_key,
            store.seaweedfs.credentials.s3_secret_key,
        )
        super().__init__(uri, login)
        self.store = store

    def listed(self, prefix: str = "") -> Iterator[Stat]:
        found = list(super().listed(prefix))
        self.store.put("versioned", "1/a", b"later")
        with self.store.client() as client:
            client.delete_object(Bucket="versioned", Key="1/b")
        yield from found


def test_a_versioned_bucket_is_copied_as_it_was_listed(world: World, store: Store) -> None:
    with store.client() as client:
        client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    for key in ("1/a", "1/b", "1/c"):
        store.put("versioned", key, b"older")
        store.put("versioned", key, f"listed {key}".encode())
    store.put("versioned", "1/gone", b"deleted before")
    with store.client() as client:
        client.delete_object(Bucket="versioned", Key="1/gone")
    made = create(replace(world.platform, proxied=Late(store, "s3://versioned"), direct=[]), world.vault)
    assert (made.objects, made.copied) == (3, 3)
    assert not verify(world.vault, made.name).failed
    target = world.target()
    roots = Path(target.platform.roots[0].uri.removeprefix("file://"))
    restore(replace(target, moves={}), world.vault, made.name)
    assert {p.name: p.read_text() for p in (roots / "1").iterdir()} == {
        name: f"listed 1/{name}" for name in "abc"
    }
