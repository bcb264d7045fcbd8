"""Whose turn it is, and which previous passwords are still promised."""

from __future__ import annotations

import json

from mlflow_platform.deploy import phases
from mlflow_platform.deploy.rotation import job, other_role, unexpired
from tests.unit.test_chart_mlflow_platform import rendered


def test_two_roles_take_turns_whatever_role_was_first() -> None:
    first = other_role("mlflow", "mlflow")
    second = other_role("mlflow", first)
    assert (first, second) == ("mlflow_a", "mlflow_b")
    assert other_role("mlflow", second) == first
    # Postgres cuts longer names, and two that differ in their end would become one.
    assert {len(other_role("d" * 63, user)) for user in ("", other_role("d" * 63, ""))} == {63}


def test_an_earlier_overlap_is_kept_as_long_as_it_was_promised() -> None:
    staged = {"previous": json.dumps({"ended": 99.0, "going on": 101.0, "no end yet": None})}
    assert unexpired(staged, 100.0) == {"going on": 101.0, "no end yet": None}
    assert unexpired({}, 100.0) == {}


def test_a_rotations_job_has_the_files_that_the_servers_variables_name() -> None:
    """A client certificate for the database, or the certificate of a store's own authority."""
    servers = phases.servers(
        rendered(
            "external",
            "server.extraEnv=[{name: PGSSLCERT, value: /v/tls.crt}, {name: AWS_CA_BUNDLE, value: /v/ca.crt}]",
        )
    )
    pod = job(servers, ["roles", "prepare"], [])["spec"]["template"]["spec"]
    mounted = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
    assert {"/v", "/etc/mlplatform/database-ca", "/tmp"} <= mounted.keys()  # noqa: S108 - the pod's own
    assert set(mounted.values()) == {v["name"] for v in pod["volumes"]}
