"""Makes a backup: the databases first, then the objects, the manifest last.

What the databases' rows name was written before them, so an object that a row names is there when the
objects are listed. Under the lock of migration, backup and retention nothing is deleted in between; what a
user deletes through MLflow, together with its row, is not missed.
"""

from __future__ import annotations

import importlib.metadata
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow_platform import __version__
from mlflow_platform.adapters.postgres import Database, exclusive, identity, translated
from mlflow_platform.adapters.trees import Stat, Tree
from mlflow_platform.backup import keys, manifest
from mlflow_platform.backup.copying import Copier
from mlflow_platform.backup.index import Entry, Known, Writer, entries, known
from mlflow_platform.backup.keys import ServerKeys
from mlflow_platform.backup.manifest import Manifest, Root, Sample
from mlflow_platform.backup.prune import Keep, prune
from mlflow_platform.backup.vault import BACKUPS, MANIFEST, Vault
from mlflow_platform.errors import BadInput, Fatal
from mlflow_platform.server import dump, schemas
from mlflow_platform.server.dump import Sink

if TYPE_CHECKING:
    import psycopg

#: What lies in artifact roots and is none: retention's marker, which would make a copy pass for the original
#: (mlflow_platform/retention/roots.py), and the dumps of migrations (chart: templates/_server.yaml.j2).
NOT_ARTIFACTS = re.compile(r"\.mlplatform-|mlplatform/dumps/")
#: Parts of a key that are ids: of runs and experiments, logged models, traces (mlflow/entities).
_ID = re.compile(r"[0-9a-f]{32}|m-[0-9a-f]{32}|tr-[0-9a-f]{32}")
#: How long to wait for a migration or a retention run to end, in seconds.
PATIENCE = 600.0


@dataclass(frozen=True)
class Platform:
    """What is backed up, or restored into. `auth`: None where both schemas are in one database.

    `proxied` is the store behind the server's proxy (its --artifacts-destination); `direct` are where
    clients write by themselves.
    """

    tracking: Database
    auth: Database | None = None
    proxied: Tree | None = None
    direct: Sequence[Tree] = field(default_factory=tuple)
    keys: ServerKeys = field(default_factory=ServerKeys)

    @property
    def roots(self) -> Sequence[Tree]:
        return [*([self.proxied] if self.proxied else []), *self.direct]

    def close(self) -> None:
        for root in self.roots:
            root.close()


def create(
    platform: Platform,
    vault: Vault,
    *,
    keep: Keep | None = None,
    full: bool = False,
    say: Callable[[str], None] = lambda _: None,
    patience: float = PATIENCE,
) -> Manifest:
    """Back a platform up; what `keep` does not keep goes afterwards. `patience` in seconds, for the lock.

    Incremental: what the last backup has of an object is not read again if the object has not changed.
    `full` reads and writes everything anew. Killed anywhere, it leaves no backup and nothing that harms one;
    what it had copied, the next one finds.
    """
    _refuse_within(platform, vault)
    began, now = time.monotonic(), datetime.now(UTC)
    with (
        exclusive(platform.tracking, patience=patience, waiting=lambda: say("waiting for the lock")) as lock,
        known() as before,
    ):
        with translated():
            vault.claim(identity(lock))
            revision = schemas.current(lock)["tracking"]
        if revision is None:
            raise BadInput("the tracking database holds no MLflow", remedy="check its address")
        name = f"{now:%Y%m%dT%H%M%SZ}-{revision}"
        there = vault.finished()
        if name in there:
            raise BadInput(f"there is a backup {name} already", remedy="wait for a second")
        vault.tree.clean()
        before.add_contents(s.key for s in vault.tree.listed(vault.contents))
        last = manifest.read(vault, there[-1]) if there and not full else None
        done, samples = _dump(platform, vault, name, say)
        roots, copied, size = _objects(platform, vault, name, last, lock, before, say, full=full)
        made = Manifest(
            name=name,
            created=now.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - began, 3),
            mlflow=importlib.metadata.version("mlflow"),
            platform=__version__,
            databases=tuple(done),
            revisions={s: r for one in done.values() for s, r in one.revisions.items() if r is not None},
            rows=sum(one.rows for one in done.values()),
            roots=tuple(roots),
            copied=copied,
            copied_size=size,
            keys=keys.fingerprints(platform.keys),
            samples=tuple(samples),
        )
        with translated():
            if not lock.execute("select true").fetchone():  # it is lost with its connection
                raise Fatal("the lock was lost")
        with vault.writing(f"{BACKUPS}{name}/{MANIFEST}") as out:
            out.write(made.text().encode())
        if keep is not None:
            say("deleting what no backup needs")
            prune(vault, keep, now)
    return made


def _refuse_within(platform: Platform, vault: Vault) -> None:
    for root in platform.roots:
        if f"{vault.tree.uri}/".startswith(f"{root.uri}/") or f"{root.uri}/".startswith(f"{vault.tree.uri}/"):
            raise BadInput(
                f"{vault.tree.uri} and the artifacts in {root.uri} lie within each other",
                remedy="keep backups in a bucket, or under a prefix, of their own",
            )


def _dump(
    platform: Platform, vault: Vault, name: str, say: Callable[[str], None]
) -> tuple[dict[str, dump.Manifest], list[Sample]]:
    """The auth database, then the tracking one, each as of one moment."""
    done: dict[str, dump.Manifest] = {}
    found: list[Sample] = []
    for database in manifest.DATABASES:
        where = platform.tracking if database == "tracking" else platform.auth
        if where is None:
            continue
        say(f"dumping the {database} database")
        with (
            closing(where.connect(autocommit=True)) as connection,
            translated(),
            dump.snapshot(connection),
        ):
            about = dump.Manifest(
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                mlflow=importlib.metadata.version("mlflow"),
                postgres=connection.info.parameter_status("server_version") or "",
                revisions=schemas.current(connection),
            )
            folder = f"{BACKUPS}{name}/{database}"
            done[database] = dump.write(connection, about, partial(_stream, vault, folder))
            if database == "tracking":
                found = list(keys.samples(connection))
    return done, found


def _stream(vault: Vault, folder: str, name: str) -> AbstractContextManager[Sink]:
    return vault.writing(f"{folder}/{name}")


def _objects(
    platform: Platform,
    vault: Vault,
    name: str,
    last: Manifest | None,
    connection: psycopg.Connection[Any],
    before: Known,
    say: Callable[[str], None],
    *,
    full: bool,
) -> tuple[list[Root], int, int]:
    """Every root's objects; how many contents were written, and their bytes."""
    roots: list[Root] = []
    copied = size = 0
    for number, tree in enumerate(platform.roots):
        old = next((r for r in last.roots if r.uri == tree.uri), None) if last else None
        before.set_objects(entries(vault, old) if old else ())
        index = f"{BACKUPS}{name}/objects/{number}.jsonl.gz"
        with vault.writing(index) as out:
            lines = Writer(out)
            for one in Copier(tree, vault, before, full=full).copy(_artifacts(tree)):
                if one.entry is None:
                    _refuse_missed(connection, tree, one.listed)
                    continue
                lines.add(Entry(one.entry.stat, one.entry.sha256))
                copied += bool(one.written)
                size += one.written
                if lines.objects % 100 == 0:
                    say(f"{tree.uri}: {lines.objects:,} objects, {copied:,} copied")
            digest = lines.finish()
        roots.append(Root(tree.uri, tree is platform.proxied, index, lines.objects, lines.size, digest))
    return roots, copied, size


def _artifacts(tree: Tree) -> Iterator[Stat]:
    return (s for s in tree.listed() if not NOT_ARTIFACTS.match(s.key))


def _refuse_missed(connection: psycopg.Connection[Any], tree: Tree, gone: Stat) -> None:
    """`Fatal` where a vanished object belongs to something that is still there."""
    ids = _ID.findall(gone.key)
    with translated():
        row = connection.execute(
            "select run_uuid from runs where run_uuid = any(%(ids)s)"
            " union all select model_id from logged_models where model_id = any(%(ids)s)"
            " union all select request_id from trace_info where request_id = any(%(ids)s) limit 1",
            {"ids": ids},
        ).fetchone()
    if row is not None:
        raise Fatal(
            f"{tree.uri}/{gone.key} vanished while it was copied, and {row[0]} is still there",
            remedy="somebody deletes artifacts; run it again",
        )
