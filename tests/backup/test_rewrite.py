"""Addresses after a move: below an old root the new one, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mlflow_platform.backup.rewrite import rewrite, spellings
from mlflow_platform.errors import BadInput
from tests.backup.databases import Server, opened

MOVES = {"s3://a": "s3://b", "s3://b": "s3://c/d", "s3://a/deep": "s3://e", "file:///data": "s3://f"}
EXPECTED = {
    "s3://a": "s3://b",
    "s3://a/1": "s3://b/1",
    "s3://a/deep/1": "s3://e/1",  # the nearest root
    "s3://b/1": "s3://c/d/1",  # moved once, although s3://a moved here
    "s3://ab/1": "s3://ab/1",  # another bucket
    "s3://a_/1": "s3://a_/1",
    "/data/1": "s3://f/1",
    "file:///data/1": "s3://f/1",
    "/database/1": "/database/1",
    "mlflow-artifacts:/1": "mlflow-artifacts:/1",
}


def test_every_address_moves_once_to_its_nearest_root(server: Server) -> None:
    where = server.database("template_tracking")
    with opened(where) as connection:
        for old in EXPECTED:
            connection.execute(
                "insert into experiments (name, artifact_location, lifecycle_stage, workspace)"
                " values (%s, %s, 'active', 'default')",
                (old, old),
            )
            connection.execute(
                "insert into datasets (dataset_uuid, experiment_id, name, digest, dataset_source_type,"
                " dataset_source) select md5(%s), experiment_id, %s, '1', 's3', %s from experiments"
                " where name = %s",
                (old, old, f'{{"uri": "{old}", "note": "from {old}"}}', old),
            )
        moved = sum(old != new for old, new in EXPECTED.items())
        assert rewrite(connection, MOVES) == 2 * moved
        found = dict(
            connection.execute(
                "select name, artifact_location from experiments where experiment_id > 0"
            ).fetchall()
        )
        assert found == EXPECTED
        sources: Mapping[str, str] = dict(
            connection.execute("select name, dataset_source from datasets").fetchall()
        )
        assert sources == {o: f'{{"uri": "{n}", "note": "from {o}"}}' for o, n in EXPECTED.items()}
        assert rewrite(connection, {"s3://nowhere": "s3://else", "s3://f": "s3://f"}) == 0


def test_an_address_that_its_column_does_not_take_is_named(server: Server) -> None:
    where = server.database("template_tracking")
    with opened(where) as connection:
        connection.execute(
            "insert into experiments (experiment_id, name, lifecycle_stage, workspace)"
            " values (0, 'd', 'active', 'default')"
        )
        connection.execute(
            "insert into runs (run_uuid, experiment_id, artifact_uri, lifecycle_stage, status)"
            " values ('r1', 0, %s, 'active', 'FINISHED')",
            ("s3://a/" + "x" * 190,),
        )
        rewrite(connection, {"s3://a": "s3://abcd"})
        with pytest.raises(
            BadInput, match=r"of r1 would be 201 characters long, and runs\.artifact_uri takes 200"
        ):
            rewrite(connection, {"s3://abcd": "s3://abcde"})


def test_a_folder_is_meant_with_and_without_its_scheme() -> None:
    assert spellings({"file:///a": "file:///b"}) == [("file:///a", "file:///b"), ("/a", "/b")]
    assert spellings({"s3://a": "s3://a"}) == []
