"""A source that is a file store: MLflow's own `migrate-filestore` makes an SQLite database of it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from mlflow_platform.errors import BadInput
from mlflow_platform.migrate.report import Left
from mlflow_platform.migrate.staged import FILE, Staged, quiet, settle_ids


def open_file_store(path: Path, work: Path) -> Staged:
    """Read `path`, or the folder `mlruns` in it. Raises `BadInput` for what is no file store or is broken."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.fs2db import _resolve_mlruns, migrate

    folder = path.absolute()
    if not folder.is_dir():
        raise BadInput(
            f"{folder}: there is no such folder", remedy="name the folder of the file store: mlruns"
        )
    file = work / FILE
    warned = _Warnings()
    logger = logging.getLogger("mlflow.store.fs2db")
    logger.addHandler(warned)
    try:
        root = _resolve_mlruns(folder)
        with contextlib.redirect_stdout(io.StringIO()), quiet():  # it prints a summary
            migrate(folder, f"sqlite:///{file}", progress=False)
    except MlflowException as error:
        raise BadInput(
            f"{folder} is no file store: {error.message}", remedy="name the folder mlruns"
        ) from None
    except Exception as error:  # whatever a broken file makes of it
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"{folder} cannot be read as a file store: {type(error).__name__}: {first}",
            remedy="mend or move away what is broken, in a copy of the folder, and give that",
        ) from error
    finally:
        logger.removeHandler(warned)
    with closing(sqlite3.connect(file)) as staged:
        settle_ids(staged, f"file://{root}")
        _mend_assessments(staged, root)
        moved = _moved(staged, root)
    return Staged(f"file://{root}", file, base=root.parent, moved=moved, left=warned.left)


class _Warnings(logging.Handler):
    """What MLflow's tool warns of: files that it passes over."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.left: list[Left] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not self.left:
            self.left.append(
                Left("files of the file store", "they cannot be read, and what they describe stays")
            )
        self.left[0].add(record.getMessage())


def _mend_assessments(staged: sqlite3.Connection, root: Path) -> None:
    """What MLflow's tool does not find in a file store's assessments: times, which are texts there, and
    expectations that are lists or maps, which are JSON's text in another field (3.17.2,
    mlflow/store/fs2db/_tracking.py, `_migrate_one_assessment`)."""
    import yaml
    from mlflow.entities import Assessment

    for own, trace, experiment in staged.execute(
        "select assessment_id, trace_id, experiment_id from assessments"
    ).fetchall():
        for folder in (root / str(experiment), root / ".trash" / str(experiment)):
            file = folder / "traces" / trace / "assessments" / f"{own}.yaml"
            if not file.is_file():
                continue
            found = Assessment.from_dictionary(yaml.safe_load(file.read_text("utf-8")))
            staged.execute(
                "update assessments set created_timestamp = ?, last_updated_timestamp = ?"
                " where assessment_id = ?",
                (found.create_time_ms, found.last_update_time_ms, own),
            )
            if found.expectation is not None:
                staged.execute(
                    "update assessments set value = ? where assessment_id = ?",
                    (json.dumps(found.expectation.value), own),
                )
    staged.commit()


def _moved(staged: sqlite3.Connection, root: Path) -> dict[str, str]:
    """Artifact locations that are not there, while the folder has the experiment: it was moved."""
    found: dict[str, str] = {}
    for own, location in staged.execute("select experiment_id, artifact_location from experiments"):
        here = next((p for p in (root / str(own), root / ".trash" / str(own)) if p.is_dir()), None)
        path = (location or "").removeprefix("file://")
        if here is not None and path.startswith("/") and not Path(path).is_dir():
            found[location] = str(here)
    return found
