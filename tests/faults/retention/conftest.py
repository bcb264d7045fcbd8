"""What retention under faults works on: a world with one of each thing, and what must be true of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest

from mlflow_platform.local import Stack
from mlflow_platform.retention.report import Report
from tests.retention.conftest import World, make_world

RULES = {
    "runs": {"olderThan": "90d", "softDeletedFor": "0s"},
    "loggedModels": {"softDeletedFor": "0s"},
    "traces": {"olderThan": "30d"},
}
WHOLE = {"experiments": {"softDeletedFor": "0s"}}
_ID = re.compile(r"(?:m-|tr-)?[0-9a-f]{32}")


@pytest.fixture
def world(stack: Stack, request: pytest.FixtureRequest) -> Iterator[World]:
    yield from make_world(stack, f"retention-faults/{request.node.name}-{time.time_ns()}")


def everything(world: World) -> dict[str, str]:
    """One of each that a run works on: to be quarantined, to be purged, and to stay."""
    found = {"old": world.run(), "deleted": world.run(), "kept": world.run(age=1), "trace": world.trace()}
    world.logged_model(found["deleted"], objects=1)
    found["model"] = world.logged_model(objects=1)
    world.call(f"logged-models/{found['model']}", "DELETE")
    world.call("runs/delete", run_id=found["deleted"])
    return found


def unaccounted(world: World) -> list[str]:
    """Objects that neither a row nor a journal entry names."""
    ids = {key: _ID.findall(key)[0] for key in world.objects()}
    query = (
        "select run_uuid from runs where run_uuid = any(%(i)s) union select model_id from logged_models"
        " where model_id = any(%(i)s) union select request_id from trace_info where request_id = any(%(i)s)"
        " union select id from mlplatform.purged where id = any(%(i)s) and state = 'pending'"
    )
    known = {row[0] for row in world.sql.execute(query, {"i": list(ids.values())})}
    return [key for key, own in ids.items() if own not in known]


def prefix(world: World) -> str:
    """A parameter's name in brackets would be a pattern."""
    return world.name.replace("[", "-").replace("]", "-")


def deleted_experiment(world: World) -> dict[str, list[str]]:
    """A new experiment with two runs, a logged model and a trace, deleted; its things, as keys hold them."""
    name = f"{prefix(world)}-{time.time_ns()}"
    world.experiment = world.call("experiments/create", name=name)["experiment_id"]
    runs = [world.run(age=1) for _ in range(2)]
    found = {"runs": runs, "models": [world.logged_model(runs[0])], "traces": [world.trace(age=1)]}
    world.call("experiments/delete", experiment_id=world.experiment)
    return found


def with_steps(world: World, act: Callable[[str], None]) -> Report:
    """A run that calls `act` at each step."""
    return world.engine(act).run([world.policy(rules=RULES)])


def until_blocked(world: World) -> None:
    """Wait until a connection of the server waits for a lock of ours."""
    blocked = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    blocked += " and datname = current_database()"
    for _ in range(1000):
        if world.one(blocked):
            return
        time.sleep(0.01)
    raise AssertionError("nobody waits")
