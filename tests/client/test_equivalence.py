"""The same program through plain HTTP and through a durable URI leaves the same on the server."""

from __future__ import annotations

import inspect
import secrets
from typing import Any

import pytest

from mlflow_platform.local import Stack
from tests.client import transcripts
from tests.client.programs import Logging

pytest_plugins = ("tests.client.program_fixtures",)

Call = dict[str, Any]

#: Public calls of `MlflowClient` that the programs of `api_calls` cannot make, and why.
_NOT_HERE = {
    "refresh_mcp_server_version_tools": "it asks a third-party server of the Model Context Protocol over the "
    "network; what it then stores goes through update_mcp_server_version, which is called",
}
#: What the server alone can tell and is found on delivery (docs/client.md): the call itself does not raise.
_FOUND_LATER = {("delete_tag", "RESOURCE_DOES_NOT_EXIST"), ("delete_trace_tag", "RESOURCE_DOES_NOT_EXIST")}


def ran(logging: Logging, stack: Stack, module: str, part: str, kind: str) -> tuple[str, str]:
    """What the program printed, and the name that was its own."""
    name = f"eq{secrets.token_hex(5)}z"
    # What the plain program logs is there when its call returns, too.
    variables = {"MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false", "MLPLATFORM_STRICT": "1"}
    if kind == "plain":
        variables["MLFLOW_TRACKING_URI"] = logging.uri
    text = logging.run_module(f"tests.client.{module}", str(stack.folder.root), name, part, **variables)
    return text, name


def calls(logging: Logging, stack: Stack, part: str) -> tuple[list[Call], list[Call]]:
    """Those of the plain program and of the durable one."""
    plain, durable = (
        transcripts.read(*ran(logging, stack, "api_calls", part, kind)) for kind in ("plain", "durable")
    )
    return plain, durable


def compare(plain: list[Call], durable: list[Call]) -> None:
    assert [c["call"] for c in plain] == [c["call"] for c in durable]
    different = []
    for mine, theirs in zip(durable, plain, strict=True):
        if (theirs["call"], theirs.get("raised")) in _FOUND_LATER and not mine["raised"]:
            mine["raised"] = theirs["raised"]
        different += [
            f"after {theirs['call']}, {part}: {theirs[part]}\n  by a durable URI: {mine[part]}"
            for part in theirs
            if mine[part] != theirs[part]
        ]
    assert not different, "\n".join(different)


@pytest.fixture
def used(stack: Stack, plain: Any) -> Stack:
    """A stack whose administrator has made something before: with the first thing comes a role of his own."""
    plain.create_experiment(f"before {secrets.token_hex(5)}")
    return stack


def test_every_call_of_the_client_leaves_and_returns_what_it_does_without_us(
    logging_to: Logging, used: Stack, stack_with_workspaces: Stack
) -> None:
    from mlflow import MlflowClient

    plain, durable = calls(logging_to, used, "tracking")
    compare(plain, durable)
    where = stack_with_workspaces.endpoints().environment()
    logging_to.uri = where.pop("MLFLOW_TRACKING_URI")
    logging_to.login = where
    more, their_more = calls(logging_to, stack_with_workspaces, "workspaces")
    compare(more, their_more)
    public = {n for n, _ in inspect.getmembers(MlflowClient) if not n.startswith("_")}
    made = {call["call"] for call in [*plain, *more]}
    assert public - made - {"tracking_uri"} == set(_NOT_HERE), "a call that nothing compares"
    # Nothing was compared that did nothing: each part has calls that change the server, and refused ones.
    assert sum(bool(call.get("changes")) for call in plain) > 80
    assert sum(bool(call.get("raised")) for call in plain) > 8


@pytest.mark.parametrize("framework", ["sklearn", "dspy", "langchain", "pyfunc"])
def test_what_a_framework_logs_by_itself_is_the_same(
    framework: str, logging_to: Logging, used: Stack
) -> None:
    texts = [ran(logging_to, used, "autologging", framework, kind) for kind in ("plain", "durable")]
    theirs, mine = (transcripts.rows(*text) for text in texts)
    assert transcripts.without_ids(mine) == transcripts.without_ids(theirs)
    assert mine == theirs, "the same rows, and another is joined to another"
    kinds = {row.partition(" ")[0].rpartition(".")[2] for row in theirs}
    assert {"runs", "logged_models", "bucket"} <= kinds
    assert framework in ("sklearn", "pyfunc") or {"trace_info", "spans"} <= kinds
