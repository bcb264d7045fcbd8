"""Rows to Parquet files and back, in row groups, with a bounded number of rows in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from mlflow_platform.errors import BadInput

#: A row group is written at so many rows or so many bytes of memory, a new file begun at so many bytes.
_GROUP_ROWS, _GROUP_BYTES, _FILE_BYTES = 65_536, 16 * 1024 * 1024, 128 * 1024 * 1024


class TableFiles:
    """The Parquet files of one table: at least one, a new one where the last has grown large.

    `done` gets each finished file, its number of rows, and its number among the table's files; the file is
    deleted afterwards.
    """

    def __init__(
        self, columns: Mapping[str, str], folder: Path, done: Callable[[Path, int, int], None]
    ) -> None:
        import pyarrow as pa

        self._schema = pa.schema([(name, getattr(pa, _TYPES[kind])()) for name, kind in columns.items()])
        self._folder, self._done = folder, done
        self._waiting: list[Any] = []
        self._number = self._rows = 0
        self._path: Path | None = None
        self._writer: Any = None

    def __enter__(self) -> TableFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        elif self._writer is not None:
            with suppress(Exception):  # the first error is the one to tell of
                self._writer.close()

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add rows, each in the order of the columns."""
        import pyarrow as pa

        if not rows:
            return
        arrays = [
            pa.array(values, type=field.type)
            for values, field in zip(zip(*rows, strict=True), self._schema, strict=True)
        ]
        self._waiting.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        count = sum(batch.num_rows for batch in self._waiting)
        if count >= _GROUP_ROWS or sum(batch.nbytes for batch in self._waiting) >= _GROUP_BYTES:
            self._flush()
            if self._path is not None and self._path.stat().st_size >= _FILE_BYTES:
                self._finish()

    def _open(self) -> None:
        import pyarrow.parquet as pq

        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".parquet", delete=False) as file:
            self._path = Path(file.name)
        self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")

    def _flush(self) -> None:
        import pyarrow as pa

        if self._writer is None:
            self._open()
        if self._waiting:
            table = pa.Table.from_batches(self._waiting, self._schema)
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
            self._rows += table.num_rows
            self._waiting = []

    def _finish(self) -> None:
        if self._writer is None and not self._waiting and self._number:
            return
        self._flush()
        self._writer.close()
        path = self._path
        if path is not None:
            try:
                self._done(path, self._rows, self._number)
            finally:
                path.unlink()
        self._number += 1
        self._rows, self._path, self._writer = 0, None, None


_TYPES = {"string": "string", "int32": "int32", "int64": "int64", "double": "float64", "bool": "bool_"}


def read(path: Path, name: str, columns: Mapping[str, str]) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of a file in lists, values in the order of `columns`.

    Raises `BadInput`, with `name`, for a file that is none or has other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            found = {field.name: str(field.type) for field in file.schema_arrow}
            if found != dict(columns):
                raise BadInput(f"{name} has other columns than this schema revision: {', '.join(found)}")
            # Lists of values of one column at a time: a large text is in memory once.
            for batch in file.iter_batches(batch_size=2048):
                yield list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(f"{name} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
