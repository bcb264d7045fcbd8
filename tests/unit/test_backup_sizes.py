"""An upload is told how large it will be, there and back: else each takes the room of the largest parts."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from mlflow_platform.adapters.trees import FileTree
from mlflow_platform.backup.copying import SMALL, Copier
from mlflow_platform.backup.index import Entry, Writer, known
from mlflow_platform.backup.manifest import Root
from mlflow_platform.backup.placing import place
from mlflow_platform.backup.vault import Vault
from mlflow_platform.server.dump import Sink


class Told(FileTree):
    """Notes the sizes that it is told."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri, create=True)
        self.sizes: dict[str, int | None] = {}

    def writing(self, key: str, size: int | None = None) -> AbstractContextManager[Sink]:
        self.sizes[key] = size
        return super().writing(key, size)


def test_uploads_know_their_sizes(tmp_path: Path) -> None:
    source, store, target = (Told(str(tmp_path / name)) for name in ("source", "vault", "target"))
    bodies = {"small": b"x", "large": b"y" * (SMALL + 1)}
    for key, body in bodies.items():
        with source.writing(key) as out:
            out.write(body)
    vault = Vault(store)
    with known() as before:
        copied = [one.entry for one in Copier(source, vault, before, full=False).copy(source.listed())]
    assert sorted(size or 0 for size in store.sizes.values()) == sorted(map(len, bodies.values()))
    with vault.writing("index") as out:
        lines = Writer(out)
        for entry in copied:
            assert entry is not None
            lines.add(Entry(entry.stat, entry.sha256))
        digest = lines.finish()
    place(target, vault, Root("", True, "index", lines.objects, lines.size, digest), lambda _: None)
    assert target.sizes == {key: len(body) for key, body in bodies.items()}
    for key, body in bodies.items():
        assert (tmp_path / "target" / key).read_bytes() == body
