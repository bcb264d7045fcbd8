"""`kill -9` at any point of an apply, then apply again: the same end as one clean apply."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.cli import transfer
from mlflow_platform.cli.root import run
from mlflow_platform.local import Stack

SEED = 20_261_121


def documents(prefix: str) -> str:
    """Every kind, with everything that takes more than one request."""
    return f"""
apiVersion: mlplatform.io/v1alpha1
kind: MLflowUser
metadata: {{name: {prefix}-ann}}
spec: {{passwordSecretRef: {{name: people, key: password}}}}
---
apiVersion: mlplatform.io/v1alpha1
kind: MLflowUser
metadata: {{name: {prefix}-bob}}
spec: {{admin: true, passwordSecretRef: {{name: people, key: password}}}}
---
apiVersion: mlplatform.io/v1alpha1
kind: ExperimentSet
metadata: {{name: {prefix}-set}}
spec:
  matrix: {{tier: [gold, silver]}}
  template: {{name: "{prefix}/{{{{ tier }}}}", tags: {{tier: "{{{{ tier }}}}"}}}}
---
apiVersion: mlplatform.io/v1alpha1
kind: Experiment
metadata: {{name: {prefix}-exp}}
spec:
  description: One experiment.
  tags: {{team: search}}
  grants: [{{user: {prefix}-ann, permission: EDIT}}]
---
apiVersion: mlplatform.io/v1alpha1
kind: RegisteredModel
metadata: {{name: {prefix}-model}}
spec:
  tags: {{team: search}}
  versions:
  - {{key: first, source: "s3://models/first", description: The first., tags: {{a: "1"}}}}
  - {{key: second, source: "s3://models/second"}}
  aliases: {{champion: {{key: first}}, challenger: {{key: second}}}}
---
apiVersion: mlplatform.io/v1alpha1
kind: Prompt
metadata: {{name: {prefix}-prompt}}
spec:
  versions:
  - {{key: one, template: "Say {{{{ word }}}}."}}
  - {{key: two, template: "Please say {{{{ word }}}}.", commitMessage: Kinder.}}
  aliases: {{live: {{key: two}}}}
---
apiVersion: mlplatform.io/v1alpha1
kind: MLflowRole
metadata: {{name: {prefix}-role}}
spec:
  permissions:
  - {{resourceType: experiment, resource: {prefix}-exp, permission: READ}}
  - {{resourceType: registered_model, resource: "*", permission: READ}}
  members: [{prefix}-ann, {prefix}-bob]
---
apiVersion: mlplatform.io/v1alpha1
kind: Webhook
metadata: {{name: {prefix}-hook}}
spec:
  url: https://192.0.2.1/hook
  events: [model_version.created]
  secretRef: {{name: people, key: password}}
"""


def configuration(folder: Path, prefix: str) -> list[str]:
    """A folder to apply, and the arguments that apply it."""
    folder.mkdir()
    (folder / "mlplatform.toml").write_text(f'project = "{prefix}"\n')
    (folder / "all.yaml").write_text(documents(prefix))
    secrets = folder.parent / "secrets"
    (secrets / "people").mkdir(parents=True, exist_ok=True)
    password = secrets / "people" / "password"
    password.touch(mode=0o600)
    password.write_text("correct horse battery staple")
    return [str(folder), "--secrets", str(secrets)]


@pytest.fixture
def login(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stack.endpoints().environment().items():
        monkeypatch.setenv(name, value)


def dying(point: int, moment: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.faults.dying_apply", str(point), moment, *arguments]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)


def state(prefix: str) -> str:
    """Everything on the server whose name starts with `prefix`: whose it is and what it is, without the
    prefix and without ids."""
    target = transfer.open_target(None, f"project:{prefix}")
    found: list[tuple[str, str, Any]] = []
    for item in transfer.everything(target):
        if item.key.name.startswith(prefix):
            assert item.mark, f"{item.key} is nobody's"
            # The paths of a mark are hashes, of names too: of those only the number can be compared.
            owner = f"{replace(item.mark, paths=frozenset())} {len(item.mark.paths)}"
            specs = [d["spec"] for d in transfer.documents(target, [item])]
            found.append((str(item.key), owner, specs))
    hooks = target.api.call("GET", "api/2.0/mlflow/webhooks", params={"max_results": 1000})["webhooks"]
    found.append(("webhooks", "", sum(h["name"].startswith(prefix) for h in hooks)))
    assert len(found) > 8
    return json.dumps(sorted(found, key=str), indent=1).replace(prefix, "P")


_SWEEP = pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])


@pytest.mark.parametrize("points", [12, _SWEEP])
def test_killed_at_random_points(login: None, tmp_path: Path, subtests: pytest.Subtests, points: int) -> None:
    assert run(["apply", *configuration(tmp_path / "warm", "k-warm")]) == 0  # makes the ledger
    first = dying(10**9, "before", configuration(tmp_path / "clean", "k-clean"))
    assert first.returncode == 0, first.stderr
    total = int(first.stdout.rsplit("requests: ", 1)[1])
    expected = state("k-clean")

    chance = random.Random(SEED)
    for index in range(points):
        point, moment = chance.randint(1, total), chance.choice(["before", "after"])
        with subtests.test(index=index, point=point, moment=moment):
            prefix = f"k{index:02}"
            arguments = configuration(tmp_path / prefix, prefix)
            assert dying(point, moment, arguments).returncode == -signal.SIGKILL
            assert run(["apply", *arguments]) == 0
            assert state(prefix) == expected
            assert run(["plan", *arguments]) == 0, "a second apply would write"
