"""What a round of one tracking server is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from mlflow_platform.adapters.election import Term
from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.apply.rounds import Round, Target
from mlflow_platform.operator.cache import Cache
from mlflow_platform.operator.entries import Entry
from mlflow_platform.operator.judging import Judged, document_of
from mlflow_platform.operator.metrics import Metrics
from mlflow_platform.operator.publishing import Publisher
from mlflow_platform.operator.secrets import ClusterSecrets
from mlflow_platform.plan.engine import Plan
from mlflow_platform.plan.objects import Key


@dataclass(frozen=True)
class Site:
    """What all tracking servers' reconcilers share. `owner` is `k8s:<uid of the namespace kube-system>`;
    `namespace` the operator's own, and `operator` that with its name: `NAMESPACE/NAME`."""

    cache: Cache
    publisher: Publisher
    cluster: Cluster
    owner: str
    namespace: str
    operator: str
    term: Term
    metrics: Metrics


@dataclass
class Ended:
    """How a round ended: origins to look at again soon, and whether the server could be worked with."""

    well: bool = True
    again: set[str] = field(default_factory=set)
    wrote: bool = False


@dataclass
class Touched:
    """What rounds have looked after: documents by their origins, and objects."""

    origins: set[str] = field(default_factory=set)
    keys: set[Key] = field(default_factory=set)

    def declared_by(self, entries: Iterable[Entry]) -> set[str]:
        """Origins of other documents about these objects: what they ask for was left out of the plan, so
        that nothing can be said of them."""
        if not self.keys:
            return set()
        about = {e.origin for e in entries if not self.keys.isdisjoint(d.key for d in e.desired)}
        return about - self.origins

    def left_out_of(self, plan: Plan) -> Plan:
        """The plan without what it says of these."""
        if not self.origins:
            return plan
        changes = tuple(
            c for c in plan.changes if c.key not in self.keys and document_of(c.origin) not in self.origins
        )
        return replace(plan, changes=changes)


@dataclass(frozen=True)
class Planned:
    """A round that is planned and not carried out. `origins` of None are all; `keys` are the objects in
    question where there are not all."""

    target: Target
    server: Entry
    entries: list[Entry]
    origins: frozenset[str] | None
    judged: Judged
    round: Round
    secrets: ClusterSecrets
    keys: frozenset[Key]
