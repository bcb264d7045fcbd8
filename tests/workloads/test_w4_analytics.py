"""W4, multi-agent analytics: what is declared and created by the platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_platform.cli.root import run
from mlflow_platform.cli.transfer import open_target
from mlflow_platform.config import load
from mlflow_platform.local import Stack

BRANDS, TIERS = ("north", "south", "east"), ("gold", "silver", "bronze", "trial", "internal")

SET = """
apiVersion: mlplatform.io/v1alpha1
kind: ExperimentSet
metadata: {{name: agents}}
spec:
  matrix: {{brand: [{brands}], tier: [{tiers}]}}
  template:
    name: "w4-1/{{{{ brand }}}}/{{{{ tier }}}}"
    tags: {{brand: "{{{{ brand }}}}", tier: "{{{{ tier }}}}"}}
"""


def test_w4_1_experiments_of_a_matrix_by_one_naming_convention(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stack.endpoints().environment().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "mlplatform.toml").write_text('project = "w4-1"\n')
    (tmp_path / "agents.yaml").write_text(SET.format(brands=", ".join(BRANDS), tiers=", ".join(TIERS)))
    assert run(["apply", str(tmp_path)]) == 0
    body = {"max_results": 50_000, "view_type": "ACTIVE_ONLY", "filter": "name LIKE 'w4-1/%'"}
    api = open_target(None, "project:w4-1").api
    found = api.call("POST", "api/2.0/mlflow/experiments/search", json=body)["experiments"]
    assert {e["name"] for e in found} == {f"w4-1/{b}/{t}" for b in BRANDS for t in TIERS}
    for experiment in found:
        tags = {t["key"]: t["value"] for t in experiment["tags"]}
        assert experiment["name"] == f"w4-1/{tags['brand']}/{tags['tier']}"


def test_w4_1_the_examples_declare_three_brands_and_five_tiers() -> None:
    examples = load([Path(__file__).parents[2] / "manifests" / "examples"])
    sets = [d.document.spec.matrix for d in examples.documents if d.document.kind == "ExperimentSet"]
    shapes = [{axis: len(values) for axis, values in matrix.items()} for matrix in sets]
    assert {"brand": 3, "tier": 5} in shapes
