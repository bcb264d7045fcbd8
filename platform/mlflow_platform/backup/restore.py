"""Brings a backup back, into an empty platform at the same addresses or at others.

Objects first, then the logins, then everything else: who sees the rows sees their artifacts. Each database is
filled in one transaction and notes so; killed anywhere, the same restore goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow_platform.adapters.object_store import Found, ObjectStore
from mlflow_platform.adapters.postgres import Database, exclusive, translated
from mlflow_platform.adapters.trees import Tree
from mlflow_platform.backup import keys, loading, manifest, placing
from mlflow_platform.backup.create import PATIENCE, Platform
from mlflow_platform.backup.loading import Part
from mlflow_platform.backup.manifest import Manifest, Root
from mlflow_platform.backup.rewrite import rewrite
from mlflow_platform.backup.vault import Vault
from mlflow_platform.errors import BadInput
from mlflow_platform.retention import journal
from mlflow_platform.retention.roots import MARKER, claim, owner
from mlflow_platform.server import database, dump, schemas
from mlflow_platform.server import restore as rebuilding

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True)
class Restored:
    """What was brought back. `rewritten` addresses; `strange` tables were not MLflow's and stay out."""

    backup: str
    rows: int
    objects: int
    size: int
    rewritten: int
    strange: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """The platform to restore into. `moves`: old address of a direct root -> new one.

    `admin`: user name and password of its administrator; None leaves the backup's. `stores` are its roots
    as retention knows them, to be marked as this platform's.
    """

    platform: Platform
    admin: tuple[str, str] | None = None
    moves: Mapping[str, str] | None = None
    stores: Sequence[ObjectStore] = ()


def restore(
    target: Target,
    vault: Vault,
    name: str,
    *,
    drop_secrets: bool = False,
    say: Callable[[str], None] = lambda _: None,
    patience: float = PATIENCE,
) -> Restored:
    """Restore a backup; `BadInput` before anything is written where the target is not empty, or not fit.

    `drop_secrets`: forget those that MLflow had encrypted with keys that are lost.
    """
    platform = target.platform
    found = manifest.read(vault, name)
    parts = loading.parts(vault, found)
    schemas.refuse_unknown({s.name: found.revisions.get(s.name) for s in schemas.SCHEMAS})
    if not drop_secrets:
        keys.refuse_unfit(found, platform.keys)
    trees = _targets(target, found)
    waiting = partial(say, "waiting for the lock")
    with exclusive(platform.tracking, patience=patience, waiting=waiting) as connection:
        with translated():
            database.refuse_encoding(connection)
            filled = loading.is_filled(connection, name)
            if not filled:
                loading.refuse_used(connection, "tracking")
            mine = _refuse_others(connection, target.stores)
        if platform.auth is not None:
            _refuse_used_logins(platform.auth, name, ended=filled)
        if not filled:  # else the objects are its own, and it may have died after it took its notes away
            for root, tree in trees:
                placing.refuse_used(tree, found, vault, root)
        for root, tree in trees:
            placing.place(tree, vault, root, say)
        tracking = [p for p in parts if p.schema is schemas.TRACKING]
        login = [p for p in parts if p.schema is schemas.AUTH]
        granted = 0
        if platform.auth is not None and login:
            say("loading the logins")
            granted = _fill_auth(platform.auth, vault, name, login, target.admin, ended=filled)
        strange: list[str] = []
        rewritten = 0
        if not filled:
            for store in mine:  # of the empty platform that this one takes the place of
                store.delete([Found(MARKER, 0, store.now())])
            say("loading the tracking database")
            with database.transaction(connection) as (alchemy, step):
                step(f"{name} was not restored")
                both = tracking if platform.auth is not None else parts
                strange = _fill(connection, alchemy, vault, both, "tracking")
                if both is parts and login:
                    granted = _settle_logins(connection, target.admin)
                rewritten = rewrite(connection, {r.uri: t.uri for r, t in trees})
                loading.clear_work(connection)
                loading.advance_experiments(connection, granted)
                if drop_secrets:
                    keys.drop(connection, [s.kind for s in found.samples])
                _new_installation(connection)
                loading.mark(connection, name)
        say("building indexes")
        with translated():
            schemas.build_indexes(connection)
            installation = journal.open_journal(connection)
        for store in target.stores:
            claim(store, installation, allowed=True)
        for _, tree in trees:
            placing.finish(tree)
        if platform.auth is not None:
            with closing(platform.auth.connect(autocommit=True)) as logins, translated():
                if loading.is_filled(logins, name):
                    loading.finish(logins)
        with translated():
            loading.finish(connection)  # last: until then the same restore goes on
    return Restored(name, found.rows, found.objects, found.size, rewritten, tuple(strange))


def _targets(target: Target, found: Manifest) -> list[tuple[Root, Tree]]:
    """Where each root of the backup goes. Raises `BadInput` where that is not said."""
    platform, moves = target.platform, dict(target.moves or {})
    direct = {tree.uri: tree for tree in platform.direct}
    result = []
    for root in found.roots:
        if root.proxied and platform.proxied is not None:
            tree = platform.proxied
        else:
            new = moves.pop(root.uri, root.uri)
            if new not in direct:
                raise BadInput(
                    f"the backup has {root.objects:,} objects of {root.uri}, and the target has no such root",
                    remedy=f"say where they are to go: --map {root.uri}=NEW",
                )
            tree = direct[new]
        result.append((root, tree))
    if len({tree.uri for _, tree in result}) < len(result):
        raise BadInput(
            "two roots of the backup would go to one of the target", remedy="give each a place of its own"
        )
    if moves:
        raise BadInput(
            f"the backup has no direct root {next(iter(moves))}",
            remedy=f"it has: {', '.join(r.uri for r in found.roots) or 'none'}",
        )
    return result


def _refuse_used_logins(where: Database, name: str, *, ended: bool) -> None:
    with closing(where.connect(autocommit=True)) as connection, translated():
        database.refuse_encoding(connection)
        if not loading.is_filled(connection, name, ended=ended):
            loading.refuse_used(connection, "auth")


def _fill_auth(
    where: Database,
    vault: Vault,
    name: str,
    parts: Sequence[Part],
    admin: tuple[str, str] | None,
    *,
    ended: bool,
) -> int:
    """The logins into a database of their own; the highest experiment that a grant names."""
    with closing(where.connect(autocommit=True)) as connection:
        with translated():
            filled = loading.is_filled(connection, name, ended=ended)
        if not filled:
            with database.transaction(connection) as (alchemy, step):
                step("the logins were not restored")
                _fill(connection, alchemy, vault, parts, "auth")
                _settle_logins(connection, admin)
                loading.mark(connection, name)
        with translated():
            return loading.highest_granted(connection)


def _settle_logins(connection: psycopg.Connection[Any], admin: tuple[str, str] | None) -> int:
    if admin is not None:
        loading.set_admin(connection, *admin)
    return loading.highest_granted(connection)


def _fill(
    connection: psycopg.Connection[Any], alchemy: Any, vault: Vault, parts: Sequence[Part], what: str
) -> list[str]:
    """Put the parts in place of what a first start has left. No server writes meanwhile: it waits."""
    from psycopg import sql

    ours = {p.schema is schemas.AUTH for p in parts}
    there = [t.name for t in dump.tables(connection) if (t.name in loading.AUTH_TABLES) in ours]
    aside = rebuilding.move_away(connection, there)
    if aside:
        # Looked at again, now that nobody else can write: what is dropped holds nothing.
        path = connection.execute("select current_setting('search_path')").fetchone()
        connection.execute("select set_config('search_path', %s, true)", (aside,))
        loading.refuse_used(connection, what)
        connection.execute("select set_config('search_path', %s, true)", (path[0] if path else "public",))
        connection.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(aside)))
    loading.build(connection, alchemy, parts)
    return loading.fill(connection, alchemy, parts, vault)


def _refuse_others(connection: psycopg.Connection[Any], stores: Sequence[ObjectStore]) -> list[ObjectStore]:
    """The roots that are marked as the target's; `BadInput` where one is another installation's: it is
    somebody's, or the original's."""
    mine = journal.open_journal(connection).id
    marked = []
    for store in stores:
        found = owner(store)
        if found == mine:
            marked.append(store)
        elif found is not None:
            raise BadInput(
                f"{store.uri} belongs to the installation {found}",
                remedy=f"restore into another bucket or prefix; if that one is gone, delete {MARKER}",
            )
    return marked


def _new_installation(connection: psycopg.Connection[Any]) -> None:
    """Retention on the copy deletes nothing where its marker is not: a new identity, known for a copy's."""
    connection.execute("drop schema if exists mlplatform cascade")
    journal.open_journal(connection)
    connection.execute("update mlplatform.installation set copied_at = now()")
