"""What a server refuses of what is logged through a durable URI: records, and logins."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.utils.rest_utils import verify_rest_response

from mlflow_platform.client.faults import Doubtful, Unauthorised, understand
from mlflow_platform.errors import Rejected, Transient
from tests.client.programs import Logging
from tests.faults.proxy import Proxy, answer

pytest_plugins = ("tests.client.program_fixtures",)


def test_what_the_server_refuses_is_in_quarantine_and_the_rest_arrives(
    logging_to: Logging, plain: Any
) -> None:
    program = """
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run() as run:
    mlflow.log_metrics({f"m{i}": i for i in range(50)})
    mlflow.log_metric("bad // name", 1.0)
    mlflow.log_param("model", "active")
    mlflow.log_param("model", "b")
    client.log_metric(run.info.run_id, "text", "no number")
    mlflow.log_metric("far", 1.0, step=1 << 63)
    mlflow.log_metrics({0: 0.5})
    mlflow.log_param("after", "x")
    mlflow.log_metric("after", 1.0)
client.log_metric("0" * 32, "nobody", 1.0)
mlflow.flush_async_logging()
time.sleep(1.5)
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run(): pass
print(run.info.run_id)
"""
    run_id = logging_to.run(program)
    assert logging_to.sync().returncode == 1
    run = plain.get_run(run_id)
    assert run.data.metrics == {**{f"m{i}": i for i in range(50)}, "after": 1.0}
    assert run.data.params == {"model": "active", "after": "x"}
    assert run.data.tags["mlplatform.rejected"] == "5"
    listed = logging_to.mlplatform("spool", "quarantine", "--json")
    assert listed.returncode == 1
    errors = [r["error"] for r in json.loads(listed.stdout)["spools"][0]["records"]]
    assert len(errors) == 6
    assert logging_to.mlplatform("spool", "status").returncode == 1
    assert logging_to.warnings.count("the tracking server refuses some of what is logged") == 1
    assert logging_to.mlplatform("spool", "quarantine", "--retry").returncode == 0
    assert logging_to.sync().returncode == 1
    assert logging_to.mlplatform("spool", "quarantine", "--drop").returncode == 0
    assert logging_to.mlplatform("spool", "status").returncode == 0


def test_strict_raises_what_mlflow_raises(logging_to: Logging) -> None:
    program = """
from mlflow.exceptions import MlflowException
mlflow.set_experiment(os.environ["EXPERIMENT"])
said = []
with mlflow.start_run() as run:
    mlflow.log_param("model", "a")
    for call in (
        lambda: mlflow.log_metric("bad // name", 1.0),
        lambda: mlflow.log_param("model", "b"),
        lambda: client.log_metric(run.info.run_id, "text", "no number"),
        lambda: mlflow.log_metric("far", 1.0, step=1 << 63),
        lambda: mlflow.log_metric("between", 1.0, step=0.5),
        lambda: mlflow.log_metrics({"far": 1.0}, step=-(1 << 63) - 1),
        lambda: client.log_metric(run.info.run_id, "late", 1.0, timestamp=1 << 63),
    ):
        try:
            call()
        except MlflowException as error:
            said.append(error.error_code)
print(said)
"""
    assert logging_to.run(program, MLPLATFORM_STRICT="1") == str(["INVALID_PARAMETER_VALUE"] * 7)
    assert logging_to.sync().returncode == 0, "nothing of it was sent"


def test_a_gateway_that_refuses_the_login_in_json_is_no_fault_of_the_record(
    proxied: tuple[Logging, Proxy], plain: Any
) -> None:
    logging, proxy = proxied
    proxy.on("", answer(401, b'{"message": "token is expired"}'), times=-1)
    program = "with mlflow.start_run() as run: mlflow.log_metric('m', 1.0)\nprint(run.info.run_id)"
    run_id = logging.run(program, MLPLATFORM_OFFLINE="1").splitlines()[-1]
    refused = logging.sync()
    assert refused.returncode == 1
    assert "the login is refused" in refused.stdout
    assert not logging.spool.quarantined()
    proxy._rules.clear()
    assert logging.sync().returncode == 0
    assert plain.get_run(run_id).data.metrics == {"m": 1.0}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"message": "Unauthorized"}, Unauthorised),
        (401, {"error_code": "UNAUTHENTICATED", "message": "who?"}, Unauthorised),
        (502, {"error": "bad gateway"}, Transient),
        (503, {"error_code": 503, "message": "no upstream"}, Transient),
        (504, {"error_code": "INVALID_PARAMETER_VALUE", "message": "a gateway's idea of it"}, Transient),
        (429, {"message": "slow down"}, Transient),
        (403, {"message": "Forbidden"}, Doubtful),
        (500, {"error_code": "INTERNAL_ERROR", "message": "a bug"}, Doubtful),
        (400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}, Rejected),
        (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}, Rejected),
    ],
)
def test_what_an_answer_in_json_means(status: int, body: dict[str, Any], kind: type[Exception]) -> None:
    response = requests.Response()
    response.status_code, response._content = status, json.dumps(body).encode()
    with pytest.raises(MlflowException) as caught:
        verify_rest_response(response, "/api/2.0/mlflow/runs/log-batch")
    assert type(understand(caught.value, remote=True)) is kind


def test_a_refused_login_holds_up_until_a_right_one_is_given(logging_to: Logging, plain: Any) -> None:
    right = logging_to.login["MLFLOW_TRACKING_PASSWORD"]
    logging_to.login["MLFLOW_TRACKING_PASSWORD"] = "wrong"
    program = """
with mlflow.start_run() as run:
    mlflow.log_metric("m", 1.0)
mlflow.flush_async_logging()
print(run.info.run_id)
"""
    run_id = logging_to.run(program)
    logging_to.stop_shipper()
    refused = logging_to.sync()
    assert refused.returncode == 1
    assert "the login is refused" in refused.stdout
    assert "401" in logging_to.mlplatform("spool", "status").stdout
    logging_to.login["MLFLOW_TRACKING_USERNAME"], user = (
        "nobody",
        logging_to.login["MLFLOW_TRACKING_USERNAME"],
    )
    assert f"was logged by user '{user}'" in logging_to.sync().stdout
    logging_to.login.update(MLFLOW_TRACKING_USERNAME=user, MLFLOW_TRACKING_PASSWORD=right)
    assert logging_to.sync().returncode == 0
    assert plain.get_run(run_id).data.metrics == {"m": 1.0}
    for file in logging_to.spool.root.rglob("*"):
        assert not file.is_file() or right.encode() not in file.read_bytes(), file
