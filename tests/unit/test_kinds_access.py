"""What the access kinds share, where the server has no basic auth."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_platform.errors import Location, Rejected
from mlflow_platform.kinds.base import Snapshot
from mlflow_platform.kinds.registry import KINDS
from mlflow_platform.plan.objects import Desired, Key

PLACE = Location("team/access.yaml", 7, 3)


class _WithoutAuth:
    """A tracking server that knows no user; it has no experiment either."""

    sent: dict[str, int] = {}  # noqa: RUF012 - nobody writes to it

    def call(self, method: str, path: str, **_: Any) -> Any:
        if path.endswith("experiments/search"):
            return {}
        raise Rejected(f"no route {method} {path}", code="ENDPOINT_NOT_FOUND")


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        (Key("MLflowUser", "", "ann"), {("admin",): False}),
        (Key("MLflowRole", "default", "readers"), {("members", "ann"): True}),
        (Key("Experiment", "default", "search"), {("grants", "ann"): "READ"}),
    ],
)
def test_what_needs_auth_says_where_it_is_asked_for(key: Key, fields: dict[Any, Any]) -> None:
    wanted = Desired(key, f"{key.kind}/default/doc", fields, where=PLACE)
    with pytest.raises(Rejected) as raised:
        list(KINDS[key.kind].observe(Snapshot(_WithoutAuth()), [wanted]))
    assert str(raised.value).startswith(f"team/access.yaml:7:3: {key}: this server has no basic auth")
    assert "--app-name basic-auth" in str(raised.value)


def test_the_place_is_that_of_the_experiment_with_the_grant() -> None:
    plain = Desired(Key("Experiment", "default", "a"), "Experiment/default/a", {}, where=Location("a.yaml"))
    granting = Desired(
        Key("Experiment", "default", "b"), "Experiment/default/b", {("grants", "ann"): "READ"}, where=PLACE
    )
    with pytest.raises(Rejected) as raised:
        list(KINDS["Experiment"].observe(Snapshot(_WithoutAuth()), [plain, granting]))
    assert raised.value.problem.where == PLACE
    assert list(KINDS["Experiment"].observe(Snapshot(_WithoutAuth()), [plain])) == []
