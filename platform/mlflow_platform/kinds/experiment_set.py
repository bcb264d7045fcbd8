"""ExperimentSet: its members are experiments, so the kind Experiment observes and changes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

from mlflow_platform.errors import Rejected
from mlflow_platform.kinds.base import Api, Json, Kind, Snapshot
from mlflow_platform.kinds.experiment import Experiment, declared_fields, requirements
from mlflow_platform.model.base import Document
from mlflow_platform.model.experiment_set import ExperimentSet as ExperimentSetDocument
from mlflow_platform.plan.objects import Change, Desired, Key, Observed, Path, Traits


class ExperimentSet(Kind):
    """Experiments by a naming convention."""

    name: ClassVar[str] = "ExperimentSet"
    traits: ClassVar[Traits] = Experiment.traits

    def desired(self, document: Document) -> Iterator[Desired]:
        assert isinstance(document, ExperimentSetDocument)  # noqa: S101 - the registry of kinds pairs them
        for _, spec in document.spec.members():
            name = spec.name or ""
            yield Desired(
                key=Key(Experiment.name, spec.workspace, name),
                origin=f"{document.origin}#{name}",
                fields=declared_fields(spec),
                requires=requirements(spec),
                deletion=spec.deletionPolicy,
                observe_only=spec.managementPolicy == "ObserveOnly",
                allow_replace=document.allow_replace,
            )

    def observe(self, snapshot: Snapshot, wanted: Sequence[Desired]) -> Iterable[Observed]:
        return ()

    def execute(self, api: Api, change: Change, secrets: Mapping[Path, str], header: str | None) -> None:
        raise Rejected(f"{change.key}: a set is no object of MLflow; its members are")

    def document(self, observed: Observed) -> Json | None:
        return None
