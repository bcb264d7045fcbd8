"""Which archive holds a run."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_platform.adapters.object_store import ObjectStore
from mlflow_platform.archive import manifest
from mlflow_platform.archive.copying import fetched
from mlflow_platform.errors import BadInput


def holding(store: ObjectStore, archives: Sequence[str], runs: Sequence[str]) -> dict[str, list[str]]:
    """What to restore from which archive: all of each of `archives`, or those of `runs` that it holds, from
    the newest of these (of all, where none is named). Raises `BadInput` for a run that is in none."""
    if not runs:
        return {name: [] for name in archives}
    left, found = set(runs), dict[str, list[str]]()
    for name in sorted(archives or manifest.ids(store), reverse=True):
        here = left & _runs(store, name)
        if here:
            found[name] = sorted(here)
            left -= here
        if not left:
            return found
    raise BadInput(
        f"no archive in {store.uri} holds the run {min(left)}",
        remedy="`mlplatform archive list` shows the archives and their experiments",
    )


def _runs(store: ObjectStore, archive: str) -> set[str]:
    import pyarrow.parquet as pq

    one = manifest.read(store, archive)
    found: set[str] = set()
    for file in one.of("runs"):
        with fetched(store, one, file) as path:
            found.update(pq.read_table(path, columns=["run_uuid"])["run_uuid"].to_pylist())
    return found
