"""The artifacts of a staged source to the platform's stores, each compared with its digest."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mlflow_platform.adapters.object_store import ObjectStore
from mlflow_platform.adapters.transfers import parallel, repeated
from mlflow_platform.archive.copying import WORKERS, Digest, digest_of
from mlflow_platform.errors import BadInput, Fatal, Rejected
from mlflow_platform.migrate.homes import new_address
from mlflow_platform.migrate.places import Places, Reader
from mlflow_platform.migrate.report import Moved
from mlflow_platform.retention.roots import Place, Roots

_CHUNK = 1024 * 1024
_UNREADABLE = "they cannot be read at the source"
_KINDS = {"run": "runs", "model": "logged models", "trace": "traces"}


@dataclass(frozen=True, slots=True)
class _File:
    """One file to copy."""

    reader: Reader
    key: str
    target: ObjectStore
    to: str
    size: int
    there: bool
    """Something is at the target."""
    owner: str


#: What is sure to have artifacts: (kind, query for the ids, words). A folder that is not there is no loss by
#: itself, since MLflow makes it with the first artifact.
_EXPECTED = (
    (
        "model",
        (
            "select model_id from logged_models m where status = 2 and lifecycle_stage = 'active' and not"
            " exists (select 1 from logged_model_tags t where t.model_id = m.model_id"
            " and t.tag_key = 'mlflow.model.isExternal')"
        ),
    ),
    (
        "run",
        (
            "select distinct run_uuid from tags where key in"
            " ('mlflow.log-model.history', 'mlflow.loggedArtifacts')"
        ),
    ),
    (
        "trace",
        (
            "select request_id from trace_tags t where key = 'mlflow.artifactLocation' and not exists (select"
            " 1 from trace_tags s where s.request_id = t.request_id and s.key = 'mlflow.trace.spansLocation')"
            " and not exists (select 1 from spans p where p.trace_id = t.request_id)"
        ),
    ),
)


def copy(
    staged: sqlite3.Connection,
    places: Places,
    roots: Roots,
    found: Moved,
    say: Callable[[str], None],
) -> None:
    """Copy what is not there; in a dry run only count it.

    What cannot be reached or read is noted. Raises `BadInput` where something else is at the target.
    """
    stores = roots.all
    filled: set[tuple[str, str]] = set()

    def files() -> Iterator[_File]:
        used: dict[tuple[str, int], bool] = {}
        query = "select kind, id, experiment, old, new from mlplatform_things order by experiment, kind, id"
        for kind, own, experiment, old, new in staged.execute(query).fetchall():
            place = roots.place(new, own)
            if not isinstance(place, Place):
                raise BadInput(
                    f"the artifacts of {kind} {own} have no place here: {place}",
                    remedy="give the store that the servers' default artifact root names",
                )
            target = stores[place.root]
            source = places.find(old)
            if isinstance(source, str):
                found.leave(f"artifacts of {_KINDS[kind]}", source, f"{own} at {old}")
                filled.add((kind, own))  # told already
                continue
            if source is None:
                continue
            reader, prefix = source
            home = place.prefix.split(f"{own}/")[0].removesuffix("models/").removesuffix("traces/")
            if (place.root, experiment) not in used:
                used[place.root, experiment] = bool(target.page(home, limit=1).found)
            present: set[str] = set()
            if used[place.root, experiment]:
                present = {key for key, _ in _listed(target, place.prefix)}
            try:
                for key, size in reader.files(prefix):
                    filled.add((kind, own))
                    to = place.prefix + key[len(prefix) :]
                    yield _File(reader, key, target, to, size, to in present, f"{kind} {own}")
            except (Fatal, Rejected) as error:  # a bucket that is gone, or not for this login
                found.leave(f"artifacts of {_KINDS[kind]}", error.problem.what, f"{own} at {old}")
                filled.add((kind, own))

    results = parallel(lambda one: _put(one, dry=found.dry), files(), WORKERS)
    for done, (file, new, problem) in enumerate(results, 1):
        if problem:
            found.leave("artifacts", _UNREADABLE, f"{file.key} of {file.owner}: {problem}")
        else:
            found.objects += new
            found.bytes += file.size if new else 0
            found.objects_there += not new
        if done % 100 == 0:
            say(f"{done:,} artifacts")
    _note_missing(staged, filled, found)


def _put(file: _File, *, dry: bool) -> tuple[_File, bool, str]:
    """Copy one; whether it is new, and why it could not be read."""
    try:
        if dry:
            return file, not file.there, ""
        repeated(lambda: (_compare if file.there else _copy)(file))
    except Rejected as error:
        return file, False, error.problem.what
    return file, not file.there, ""


def _copy(file: _File) -> None:
    with file.reader.reading(file.key) as content:
        digest = Digest(content)
        with _ours(), file.target.writing(file.to, file.size or None) as out:
            while block := digest.read(_CHUNK):
                out.write(block)
    if _is(file) != (digest.bytes, digest.sha256):
        raise Fatal(
            f"{file.target.uri}/{file.to} is not what was written: {digest.bytes:,} bytes, {digest.sha256}",
            remedy="look at the store; then run it again",
        )


def _compare(file: _File) -> None:
    with file.reader.reading(file.key) as content:
        digest = Digest(content)
        while digest.read(_CHUNK):
            pass
    if _is(file) != (digest.bytes, digest.sha256):
        raise BadInput(
            f"{file.target.uri}/{file.to} is here already and differs from the source's {file.key}",
            remedy="look at both; delete it here, or change it there back",
        )


def _is(file: _File) -> tuple[int, str] | None:
    with _ours():
        return digest_of(file.target, file.to)


@contextmanager
def _ours() -> Iterator[None]:
    """What the platform's own store refuses ends the move: no row comes without what it names."""
    try:
        yield
    except Rejected as error:
        raise Fatal(
            error.problem.what, remedy="let the platform's keys write and read there; then run it again"
        ) from error


def _listed(store: ObjectStore, prefix: str) -> Iterator[tuple[str, int]]:
    after = None
    while True:
        page = store.page(prefix, after)
        yield from ((one.key, one.size) for one in page.found)
        after = page.after
        if after is None:
            return


def _note_missing(staged: sqlite3.Connection, filled: set[tuple[str, str]], found: Moved) -> None:
    for kind, query in _EXPECTED:
        for (own,) in staged.execute(query):
            row = staged.execute(
                "select old from mlplatform_things where kind = ? and id = ?", (kind, own)
            ).fetchone()
            if row and (kind, own) not in filled:
                found.leave(
                    f"artifacts of {_KINDS[kind]}",
                    "their rows say that there are some, and none is there",
                    f"{own} at {row[0]}",
                )
    for name, version, address in staged.execute(
        "select name, version, coalesce(nullif(storage_location, ''), source) from model_versions v"
        " where coalesce(source, '') <> '' and current_stage <> 'Deleted_Internal' and not exists (select 1"
        " from registered_model_tags t where t.name = v.name and t.workspace = v.workspace"
        " and t.key = 'mlflow.prompt.is_prompt')"  # a prompt's source is a word
    ).fetchall():
        if not address.startswith(("models:/", "runs:/")) and new_address(staged, address) is None:
            found.leave(
                "model versions",
                "their source is below no run, model or experiment: the version comes, its files stay",
                f"{name} {version} at {address}",
            )
