"""A platform is backed up, lost, and brought back in another one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from werkzeug.security import check_password_hash

from mlflow_platform.adapters.files import FileStore
from mlflow_platform.adapters.trees import FileTree
from mlflow_platform.backup.create import create
from mlflow_platform.backup.keys import ServerKeys
from mlflow_platform.backup.restore import Target, restore
from mlflow_platform.errors import BadInput
from mlflow_platform.model.retention_policy import RetentionPolicy
from mlflow_platform.retention.engine import Engine
from mlflow_platform.retention.roots import MARKER, Roots
from mlflow_platform.server import database, schemas
from tests.backup import databases
from tests.backup.conftest import KEYS, Place, World, contents
from tests.backup.databases import Server, digests, one, opened, webhook_key

#: Tables that a restore changes on purpose.
CHANGED = {
    "experiments",
    "runs",
    "logged_models",
    "model_versions",
    "trace_tags",
    "datasets",
    "jobs",
    "users",
}


@pytest.mark.parametrize(
    ("here", "there"), [(False, False), (True, False), pytest.param(False, True, marks=pytest.mark.soak)]
)
def test_everything_comes_back_elsewhere(make_world: Callable[..., World], here: bool, there: bool) -> None:
    world = make_world(shared=here)
    made = create(world.platform, world.vault)
    before = digests(world.platform.tracking)
    logins = digests(world.platform.auth or world.platform.tracking)
    objects = world.objects
    world.server.drop(world.platform.tracking)
    shutil.rmtree(world.folder)

    target = world.target(shared=there)
    done = restore(target, world.vault, made.name)

    assert done.objects == len(objects) == made.objects
    tracking, auth = target.platform.tracking, target.platform.auth or target.platform.tracking
    after = {**digests(tracking), **digests(auth)}
    for table, found in {**before, **logins}.items():
        if table in CHANGED:
            assert after[table][0] == (0 if table == "jobs" else found[0]), table
        else:
            assert after[table] == found, table
    assert contents(target.folder) == objects
    assert_addresses(world, target)
    # The administrator is the target's, everybody else the backup's.
    kept = "select password_hash from users where username = %s"
    assert check_password_hash(one(auth, kept, "admin"), "new password")
    assert one(auth, kept, "ada") == "hers"
    # Whom a grant names by id, that nobody new gets.
    assert one(tracking, NEW_EXPERIMENT) == 4712
    assert one(tracking, "select copied_at is not null from mlplatform.installation") is True


NEW_EXPERIMENT = (
    "insert into experiments (name, lifecycle_stage, workspace) values ('n', 'active', 'default')"
    " returning experiment_id"
)


def assert_addresses(world: World, target: Place) -> None:
    """Every address of a root is one of the target's, whatever column it is in."""
    old, new = world.platform.direct[0].uri, target.platform.direct[0].uri
    with opened(target.platform.tracking) as connection:
        found = [
            uri
            for table, column in ADDRESSES
            for (uri,) in connection.execute(f"select {column}::text from {table}")
        ]
    assert [u for u in found if old in u] == []
    assert len([u for u in found if new in u]) == 8
    assert len([u for u in found if u.startswith("mlflow-artifacts:/1")]) == 4


ADDRESSES = [
    ("experiments where artifact_location is not null and experiment_id < 4712", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("trace_tags where key = 'mlflow.artifactLocation'", "value"),
    ("datasets", "dataset_source"),
]


def test_a_platform_in_use_is_refused(world: World) -> None:
    made = create(world.platform, world.vault)
    used = world.target()
    databases.run(used.platform.tracking, "insert into registered_models (name, workspace) values ('x', 'y')")
    refused(world, used, made.name, "the tracking database is not empty: it has registered_models")
    used = world.target()
    databases.run(used.platform.auth, "insert into users (username) values ('a'), ('b')")
    refused(world, used, made.name, "the auth database is not empty: it has users")
    used = world.target()
    taken = target_root(used) / world.rows.proxied[0]
    taken.parent.mkdir(parents=True)
    taken.write_text("another's")
    refused(world, used, made.name, "it is the source's own")
    assert taken.read_text() == "another's"
    assert one(used.platform.tracking, "select count(*) from runs where experiment_id > 1") == 0


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (
            (
                "logged_models (model_id, experiment_id, name, artifact_location, creation_timestamp_ms,"
                " last_updated_timestamp_ms, status)"
            ),
            "'m-1', 0, 'm', 'a', 1, 1, 1",
        ),
        ("workspaces (name)", "'team'"),
        ("scorers (scorer_id, experiment_id, scorer_name)", "'s', 0, 'mine'"),
        (
            "webhooks (webhook_id, name, url, status, creation_timestamp, last_updated_timestamp, workspace)",
            "'w', 'w', 'https://a', 'ACTIVE', 1, 1, 'default'",
        ),
    ],
)
def test_what_lies_beside_experiments_counts_as_use(world: World, table: str, values: str) -> None:
    """It would go with the tables that the backup's take the place of."""
    made = create(world.platform, world.vault)
    used = world.target()
    databases.run(used.platform.tracking, f"insert into {table} values ({values})")
    name = table.partition(" ")[0]
    refused(world, used, made.name, f"the tracking database is not empty: it has {name}")
    assert one(used.platform.tracking, f"select count(*) from {name}") >= 1


def test_each_root_goes_to_a_place_that_is_named(world: World) -> None:
    made = create(world.platform, world.vault)
    target, old = world.target(), world.platform.direct[0].uri
    refused(world, replace(target, moves={}), made.name, f"has 5 objects of {old}, and the target has no")
    refused(world, replace(target, moves={**target.moves, "s3://x": "y"}), made.name, "no direct root s3://x")
    both = replace(target.platform, direct=[target.platform.roots[0]])
    one_place = replace(target, platform=both, moves={old: target.platform.roots[0].uri})
    refused(world, one_place, made.name, "two roots of the backup would go to one")


def refused(world: World, target: Target, name: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        restore(target, world.vault, name)


def target_root(target: Place) -> Path:
    return Path(target.platform.roots[0].uri.removeprefix("file://"))


def test_a_root_of_another_installation_is_refused(world: World) -> None:
    made = create(world.platform, world.vault)
    target = world.target()
    target.stores[0].create(MARKER, b'{"installation": "00000000-0000-0000-0000-000000000001"}')
    refused(world, target, made.name, "belongs to the installation 00000000")


def test_the_servers_keys_must_open_the_secrets(world: World) -> None:
    made = create(world.platform, world.vault)
    target = world.target()
    for keys in (ServerKeys("another", KEYS.webhook_key), ServerKeys(KEYS.kek_passphrase, webhook_key())):
        unfit = replace(target, platform=replace(target.platform, keys=keys))
        refused(world, unfit, made.name, "does not open the (gateway|webhook) secrets")
    assert one(target.platform.tracking, "select count(*) from runs where experiment_id > 1") == 0
    lost = replace(target, platform=replace(target.platform, keys=ServerKeys()))
    restore(lost, world.vault, made.name, drop_secrets=True)
    assert one(target.platform.tracking, "select count(*) from secrets") == 0
    assert (
        one(target.platform.tracking, "select secret is null and status = 'DISABLED' from webhooks") is True
    )


def test_an_address_that_does_not_fit_is_refused_before_anything_is_changed(world: World) -> None:
    made = create(world.platform, world.vault)
    target = world.target()
    long = target.folder / ("d" * 200)
    long.mkdir()
    where = FileTree(str(long))
    target = replace(
        target,
        platform=replace(target.platform, direct=[where]),
        moves={world.platform.direct[0].uri: where.uri},
        stores=[],
    )
    refused(world, target, made.name, "takes (200|256)")
    assert one(target.platform.tracking, "select count(*) from runs where experiment_id > 1") == 0


def test_an_older_schema_is_built_and_migrated(make_world: Callable[..., World], server: Server) -> None:
    """Also where somebody has added a table of their own, which stays out."""
    older = server.database()
    previous = schemas._scripts(schemas.TRACKING).get_revision("head").down_revision
    with opened(older) as connection, database.transaction(connection) as (alchemy, _):
        schemas.upgrade(alchemy, schemas.TRACKING, previous)
    databases.run(older, "create table notes (note text)")
    world = make_world(tracking=older)
    made = create(world.platform, world.vault)
    assert made.revisions["tracking"] == previous
    before = digests(older)
    target = world.target()
    done = restore(target, world.vault, made.name)
    assert done.strange == ("notes",)
    with opened(target.platform.tracking) as connection:
        assert schemas.current(connection)["tracking"] == schemas.needed()["tracking"]
    after = digests(target.platform.tracking)
    assert after["params"] == before["params"]
    assert after["runs"][0] == before["runs"][0] == 6


def test_retention_on_the_copy_deletes_nothing_of_the_originals(world: World) -> None:
    """Even where somebody gives it the original's root, which has never been marked."""
    made = create(world.platform, world.vault)
    target = world.target()
    restore(target, world.vault, made.name)
    databases.run(
        target.platform.tracking,
        "update runs set lifecycle_stage = 'deleted', deleted_time = 1, end_time = 1",
    )
    before = world.objects
    originals = Roots(FileStore(str(world.folder / "proxied")), [FileStore(str(world.folder / "direct"))])
    policy = RetentionPolicy.model_validate(
        {
            "kind": "RetentionPolicy",
            "metadata": {"name": "all"},
            "spec": {"rules": {"runs": {"softDeletedFor": "1d"}}, "brake": {"maxPercent": 100}},
        }
    )
    with pytest.raises(BadInput, match="this database is a copy"):
        Engine(target.platform.tracking, originals).run([policy])
    assert world.objects == before
    # On its own roots, which the restore has marked, it works.
    report = Engine(target.platform.tracking, Roots(target.stores[0], target.stores[1:])).run([policy])
    assert not report.problems
    assert one(target.platform.tracking, "select count(*) from runs where experiment_id = 1") == 0
    assert world.objects == before
