"""Whether an archive is what its manifest says, byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mlflow_platform.adapters.object_store import ObjectStore
from mlflow_platform.adapters.transfers import parallel
from mlflow_platform.archive import parquet
from mlflow_platform.archive.copying import WORKERS, digest_of, fetched
from mlflow_platform.archive.manifest import OBJECTS, Corrupted, Manifest


def verify(
    store: ObjectStore, manifest: Manifest, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> Iterator[str]:
    """Names of what is missing or changed, with what is wrong. Reads everything once, in bounded memory."""
    for file in manifest.files:
        if file.table == "objects":
            continue
        try:
            with fetched(store, manifest, file):
                pass
        except Corrupted as error:
            yield error.problem.what
    done = 0
    for file in manifest.of("objects"):
        try:
            with fetched(store, manifest, file) as path:
                for rows in parquet.read(path, file.path, OBJECTS):
                    checked = parallel(lambda row: _wrong(store, manifest, row), rows, WORKERS)
                    yield from (found for found in checked if found)
                    done += len(rows)
                    progress(done, manifest.objects)
        except Corrupted as error:
            yield error.problem.what


def _wrong(store: ObjectStore, manifest: Manifest, row: tuple[Any, ...]) -> str | None:
    key = manifest.folder + row[4]
    found = digest_of(store, key)
    if found is None:
        return f"{store.uri}/{key} is missing"
    return None if found == row[5:7] else f"{store.uri}/{key} is not what was archived: sha256 {found[1]}"
