"""A chart and its values become Kubernetes objects, in the order they are to be applied."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mlflow_platform.chart import schema
from mlflow_platform.chart.templates import Templates, to_yaml
from mlflow_platform.chart.values import Loader, Values, read_yaml
from mlflow_platform.errors import BadInput, Location

#: The order in which objects are applied, after Helm's InstallOrder (pkg/release/util/kind_sorter.go);
#: kinds not listed (custom resources) come last.
KIND_ORDER = (
    "Namespace", "PriorityClass", "NetworkPolicy", "ResourceQuota", "LimitRange", "PodDisruptionBudget",
    "ServiceAccount", "Secret", "ConfigMap", "StorageClass", "PersistentVolume", "PersistentVolumeClaim",
    "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service",
    "DaemonSet", "Pod", "ReplicaSet", "Deployment", "HorizontalPodAutoscaler", "StatefulSet", "Job",
    "CronJob", "Ingress",
)  # fmt: skip
#: Newest Kubernetes this was tried with; what `--kube-version` is by default.
DEFAULT_KUBE_VERSION = "1.34"
#: How every object's text begins.
HEADING = "---\n# Source: templates/"
#: What may name a release: the start of an RFC 1035 label, with room for suffixes in 63 characters.
RELEASE_NAME = re.compile(r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$")
#: What may name a namespace: a whole label of RFC 1123.
NAMESPACE = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")


@dataclass(frozen=True)
class Release:
    """One installation of the chart: object names start with `name`, all live in `namespace`."""

    name: str = "mlflow"
    namespace: str = "mlflow"

    def __post_init__(self) -> None:
        for what, value, pattern, rule in (
            ("release name", self.name, RELEASE_NAME, "at most 40 lower-case letters, digits and dashes"),
            ("namespace", self.namespace, NAMESPACE, "at most 63 lower-case letters, digits and dashes"),
        ):
            if not pattern.match(value):
                raise BadInput(f"{what} {value!r} is not usable", remedy=f"use {rule}")


@dataclass(frozen=True)
class Manifest:
    """One Kubernetes object and the template that made it."""

    template: str
    object: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.object["kind"])

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    def text(self) -> str:
        """The object as a YAML document that names its template."""
        return f"{HEADING}{self.template}\n{to_yaml(self.object)}\n"


@dataclass(frozen=True)
class Chart:
    """A folder with `Chart.yaml`, `values.yaml`, `values.schema.json`, `profiles/` and `templates/`."""

    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / "Chart.yaml").is_file():
            raise BadInput(f"{self.folder} is not a chart", remedy="it has no Chart.yaml")

    @cached_property
    def about(self) -> dict[str, Any]:
        """`Chart.yaml`: name, version, appVersion, kubeVersion."""
        about: dict[str, Any] = read_yaml((self.folder / "Chart.yaml").read_text(encoding="utf-8"))
        return about

    @cached_property
    def schema(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "values.schema.json").read_text(encoding="utf-8"))
        return found

    def profiles(self) -> list[str]:
        return sorted(p.stem for p in (self.folder / "profiles").glob("*.yaml"))

    def values(
        self, *, profile: str = "", files: Iterable[Path] = (), settings: Iterable[str] = ()
    ) -> Values:
        """Defaults, the profile, the files, the `path=value` settings; checked against the schema."""
        values = Values()
        values.add_file(self.folder / "values.yaml", "values.yaml")
        if profile:
            if profile not in self.profiles():
                hint = schema.nearest(profile, self.profiles())
                raise BadInput(
                    f"no profile {profile!r}", remedy=hint or f"there are: {', '.join(self.profiles())}"
                )
            values.add_file(self.folder / "profiles" / f"{profile}.yaml", f"profiles/{profile}.yaml")
        for file in files:
            values.add_file(file)
        for setting in settings:
            values.add_setting(setting)
        schema.check(values, self.schema)
        return values

    def render(
        self, values: Values, release: Release | None = None, *, kube_version: str = DEFAULT_KUBE_VERSION
    ) -> list[Manifest]:
        """The objects in the order to apply them. `BadInput` names template, line and value."""
        capabilities = Capabilities.parse(kube_version)
        capabilities.require(self.about["kubeVersion"])
        release = release or Release()
        templates = Templates(
            self.folder,
            {
                "values": values.data,
                "release": {"name": release.name, "namespace": release.namespace},
                "chart": self.about,
                "capabilities": {"kubeVersion": kube_version, "atLeast": capabilities.at_least},
            },
        )
        manifests = [m for name in templates.names() for m in _objects(name, templates.render(name))]
        _refuse_duplicates(manifests)
        _refuse_variables_given_twice(manifests)
        return sorted(manifests, key=_apply_order)


@dataclass(frozen=True, order=True)
class Capabilities:
    """The Kubernetes that objects are rendered for."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Capabilities:
        found = re.match(r"^v?(\d+)\.(\d+)(\.|$)", text)
        if not found:
            raise BadInput(f"{text!r} is not a Kubernetes version", remedy="for example: --kube-version 1.34")
        return cls(int(found[1]), int(found[2]))

    def at_least(self, major: int, minor: int) -> bool:
        return (self.major, self.minor) >= (major, minor)

    def require(self, constraint: str) -> None:
        """`constraint` is Chart.yaml's `kubeVersion`, of the form `>=1.30`."""
        least = Capabilities.parse(constraint.removeprefix(">=").removesuffix("-0"))
        if self < least:
            raise BadInput(
                f"Kubernetes {self.major}.{self.minor} is too old", remedy=f"the chart needs {constraint}"
            )


def find_chart() -> Chart:
    """The chart that comes with this package, or that of the source tree the package runs from."""
    package = Path(__file__).parent.parent
    for folder in (
        package / "charts" / "mlflow-platform",
        package.parent.parent / "charts" / "mlflow-platform",
    ):
        if (folder / "Chart.yaml").is_file():
            return Chart(folder)
    raise BadInput("the chart mlflow-platform is not installed", remedy="name its folder with --chart")


def _objects(template: str, text: str) -> Iterable[Manifest]:
    try:
        documents = list(yaml.load_all(text, Loader=Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        raise BadInput(
            f"its text is not YAML: {error.problem}: {line.strip()!r}",
            where=Location(f"templates/{template}"),
        ) from error
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict) or not _is_object(document):
            raise BadInput(
                "a document without apiVersion, kind or metadata.name",
                where=Location(f"templates/{template}"),
            )
        yield Manifest(template, document)


def _is_object(document: Mapping[str, Any]) -> bool:
    metadata = document.get("metadata")
    return bool(
        document.get("apiVersion")
        and document.get("kind")
        and isinstance(metadata, dict)
        and metadata.get("name")
    )


def _refuse_duplicates(manifests: Sequence[Manifest]) -> None:
    seen: dict[tuple[str, str, str], str] = {}
    for m in manifests:
        key = (m.kind, str(m.object["metadata"].get("namespace", "")), m.name)
        if key in seen:
            raise BadInput(
                f"{m.kind} {m.name} is made twice",
                where=Location(f"templates/{m.template}"),
                remedy=f"also by {seen[key]}",
            )
        seen[key] = f"templates/{m.template}"


def _refuse_variables_given_twice(manifests: Sequence[Manifest]) -> None:
    """Server-side apply refuses these, but only when it comes to the object; kubectl's own takes the last."""
    for m in manifests:
        pod = m.object.get("spec", {}).get("template", {}).get("spec", {})
        for container in [*pod.get("initContainers", []), *pod.get("containers", [])]:
            names = [one.get("name") for one in container.get("env", [])]
            if twice := sorted({str(n) for n in names if names.count(n) > 1}):
                raise BadInput(
                    f"{m.kind} {m.name}: the variable {', '.join(twice)} is given twice",
                    where=Location(f"templates/{m.template}"),
                    remedy="leave it out of extraEnv: the chart sets it, or the list has it twice",
                )


def _apply_order(manifest: Manifest) -> tuple[int, str, str]:
    kind = manifest.kind
    return KIND_ORDER.index(kind) if kind in KIND_ORDER else len(KIND_ORDER), kind, manifest.name
