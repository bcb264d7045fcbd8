"""Runs that kill themselves with SIGKILL at their n-th step, each in a process forked for it.

`Dying` starts a program and gives it orders, `serve` is what the program does: it reads lines of JSON, as
{"point": N, ...}, carries each out in a fork, and answers with {"code": C, "steps": [names]}. One program
for all of them: to start it costs seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

from tests.retention.conftest import World


class Dying:
    """The program that carries out runs which kill themselves."""

    def __init__(self, program: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        world: World,
        point: int,
        rules: dict[str, Any],
        selector: dict[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """One run killed at a step (0: none); its exit code and the names of its steps."""
        where = world.stack.endpoints()
        policy = world.policy(rules=rules, **({"selector": selector} if selector else {}))
        order = {
            "point": point,
            "policies": [policy.model_dump(mode="json", exclude_none=True)],
            "database": where.database_uri,
            "store": {
                "uri": f"s3://{where.s3_bucket}",
                "login": {
                    "endpoint": where.s3_endpoint,
                    "region": "us-east-1",
                    "access_key": where.s3_access_key,
                    "secret_key": where.s3_secret_key,
                },
            },
            **more,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        self._process.communicate(timeout=60)


def serve(carry_out: Callable[[dict[str, Any], Callable[[str], None]], None]) -> None:
    """Call `carry_out` with each order and the function to be called with the name of each step."""
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                carry_out(order, _until(order["point"], writing))
            except BaseException:  # noqa: BLE001 - told, and the process ends
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            steps = stream.read().splitlines()
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"code": code, "steps": steps}), flush=True)


def _until(point: int, answer: int) -> Callable[[str], None]:
    """Write each step's name to the descriptor `answer`; the process dies at the one with this number."""
    left = point

    def step(name: str) -> None:
        nonlocal left
        os.write(answer, f"{name}\n".encode())
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return step
