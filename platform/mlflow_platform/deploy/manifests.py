"""The chart's objects as files to apply without this program: `python -m mlflow_platform.deploy.manifests`.

`quickstart.yaml` is complete in one file, with its namespace; `production/` is a kustomization to build on;
`crds/` are the definitions of the documents, for `kubectl apply --server-side -f manifests/crds`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mlflow_platform.chart import Chart, Manifest, Release, find_chart
from mlflow_platform.chart.templates import to_yaml
from mlflow_platform.deploy.phases import namespace_object
from mlflow_platform.model import crd

_QUICKSTART = """# MLflow with login, Postgres and S3, for a first try. Made by `make manifests`; do not edit.
#
#   kubectl apply -f manifests/quickstart.yaml
#   kubectl -n mlflow rollout status deployment/mlflow-server
#   kubectl -n mlflow port-forward service/mlflow 5000
#   kubectl -n mlflow get secret mlflow-auth -o jsonpath='{.data.password}' | base64 -d   # of user admin
"""
_PRODUCTION = """# Profile `production`. Made by `make manifests`; do not edit.
#
# Build on it in a kustomization of your own: set the bucket, the ServiceAccount's identity and a way in
# (docs/reference/values.md); or render your own: mlplatform render --profile production -f my-values.yaml
# Needs the operators CloudNativePG and Prometheus in the cluster.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
"""


def files(chart: Chart) -> dict[str, str]:
    """Path below `manifests/` -> text."""
    release = Release()
    namespace = f"---\n{to_yaml(namespace_object(release.namespace))}\n"
    production = _text(chart.render(chart.values(profile="production"), release))
    names = "- namespace.yaml\n- mlflow.yaml\n"
    return {
        "quickstart.yaml": _QUICKSTART + namespace + _text(chart.render(chart.values(), release)),
        "production/kustomization.yaml": _PRODUCTION + names,
        "production/namespace.yaml": namespace,
        "production/mlflow.yaml": production,
        **{f"crds/{name}": text for name, text in crd.files().items()},
    }


def write(folder: Path) -> None:
    """Write every file into a folder, which is made if need be."""
    for name, text in files(find_chart()).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _text(manifests: list[Manifest]) -> str:
    return "".join(m.text() for m in manifests)


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "manifests"))
