"""Objects from a vault into an artifact root: each digest is checked, and nothing is shared with others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator

from mlflow_platform.adapters.transfers import parallel, repeated
from mlflow_platform.adapters.trees import GONE, Tree
from mlflow_platform.backup.copying import BLOCK, WORKERS
from mlflow_platform.backup.index import Entry, Known, entries, known
from mlflow_platform.backup.manifest import Manifest, Root
from mlflow_platform.backup.vault import Vault
from mlflow_platform.errors import BadInput, Fatal, Rejected

#: Says in an artifact root that a restore is under way, and of which backup.
NOTE = ".mlplatform-restore"


def refuse_used(tree: Tree, found: Manifest, vault: Vault, root: Root) -> None:
    """`BadInput` where a root has objects of the backup that no unfinished restore of it has put there.

    It may be the source's own, which a copy must not share. Then a note says that this restore is at work.
    """
    if _noted(tree) == found.name:
        return
    with known() as there:
        there.add_contents(s.key for s in tree.listed())
        shared = next((e.stat.key for e in entries(vault, root) if there.has_content(e.stat.key)), None)
    if shared is not None:
        raise BadInput(
            f"{tree.uri} has {shared} already: it is the source's own, or used otherwise",
            remedy="restore into an empty bucket or prefix",
        )
    with tree.writing(NOTE) as out:
        out.write(json.dumps({"backup": found.name}).encode())


def finish(tree: Tree) -> None:
    """Take the note away."""
    tree.delete([NOTE])


def _noted(tree: Tree) -> str:
    try:
        with tree.reading(NOTE) as (_, source):
            return str(json.loads(source.read())["backup"])
    except Rejected as error:
        if error.code not in GONE:
            raise
    except (ValueError, KeyError, TypeError):
        pass  # cut off, or somebody else's: then what is there counts
    return ""


def place(tree: Tree, vault: Vault, root: Root, say: Callable[[str], None]) -> None:
    """Write every object of a root; what an interrupted restore has written already is compared instead."""
    with known() as there:
        there.add_contents(s.key for s in tree.listed())
        placed = parallel(
            lambda e: repeated(lambda: _one(tree, vault, e, there)), entries(vault, root), WORKERS
        )
        for done, _ in enumerate(placed, 1):
            if done % 100 == 0:
                say(f"{tree.uri}: {done:,} of {root.objects:,} objects")


def _one(tree: Tree, vault: Vault, entry: Entry, there: Known) -> None:
    key = entry.stat.key
    if there.has_content(key):
        with tree.reading(key) as (_, source):
            digest = hashlib.sha256()
            while block := source.read(BLOCK):
                digest.update(block)
        if digest.hexdigest() == entry.sha256:
            return
    with tree.writing(key, entry.stat.size) as out:
        for block in content(vault, entry):
            out.write(block)


def content(vault: Vault, entry: Entry) -> Iterator[bytes]:
    """The content of an object; after the last block `Fatal` where it is not what was saved."""
    digest, name = hashlib.sha256(), vault.content(entry.sha256)
    try:
        with vault.reading(name) as source:
            while block := source.read(BLOCK):
                digest.update(block)
                yield block
    except Rejected as error:
        if error.code not in GONE:
            raise
        raise Fatal(f"{entry.stat.key} is lost: {name} is not there", remedy="name another backup") from error
    if digest.hexdigest() != entry.sha256:
        raise Fatal(
            f"{entry.stat.key} is damaged: {name} is not what was saved", remedy="name another backup"
        )
