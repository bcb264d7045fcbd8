"""Counters and gauges in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

import threading

PREFIX = "mlplatform_operator_"
#: Every metric: its type and what it counts. A name that is not here cannot be written.
HELP: dict[str, tuple[str, str]] = {
    "leading": ("gauge", "1 where this replica leads."),
    "rounds_total": ("counter", "Rounds by tracking server, scope (full, scoped) and result."),
    "round_seconds": ("gauge", "How long the last full round of a tracking server took."),
    "last_round_timestamp_seconds": ("gauge", "When the last full round of a tracking server ended well."),
    "documents": ("gauge", "Documents of a tracking server by the reason of their condition Ready."),
    "schedules": ("gauge", "Documents that jobs carry out by the reason of their condition Ready."),
    "schedule_rounds_total": ("counter", "Rounds about documents that jobs carry out, by result."),
    "schedule_writes_total": ("counter", "CronJobs and their ConfigMaps that were written or deleted."),
    "changes_total": ("counter", "Changes carried out on a tracking server, by action and outcome."),
    "patches_total": ("counter", "Patches of statuses and finalizers that were sent to Kubernetes."),
    "events_total": ("counter", "Kubernetes Events that were sent."),
    "events_dropped_total": ("counter", "Kubernetes Events that were left out, as there were too many."),
    "kubernetes_reads_total": ("counter", "Pages of lists that were read from Kubernetes."),
    "watches_total": ("counter", "Watches that ended and were begun anew, by kind."),
    "requests_total": ("counter", "Requests to a tracking server, by reads and writes."),
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[Labels, float]] = {name: {} for name in HELP}

    def add(self, name: str, by: float = 1.0, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        with self._lock:
            values = self._values[name]
            values[key] = values.get(key, 0.0) + by

    def set(self, name: str, value: float, **labels: str) -> None:
        with self._lock:
            self._values[name][tuple(sorted(labels.items()))] = value

    def replace(self, name: str, label: str, values: dict[str, float], **labels: str) -> None:
        """Set a gauge for every value of a label at once; values that are not given vanish."""
        fixed = tuple(labels.items())
        with self._lock:
            kept = {k: v for k, v in self._values[name].items() if not set(fixed) <= set(k)}
            new = {tuple(sorted([*fixed, (label, k)])): v for k, v in values.items()}
            self._values[name] = {**kept, **new}

    def forget(self, name: str, **labels: str) -> None:
        """Leave the values with these labels out from now on."""
        gone = set(labels.items())
        with self._lock:
            self._values[name] = {k: v for k, v in self._values[name].items() if not gone <= set(k)}

    def get(self, name: str, **labels: str) -> float:
        """The sum over all label values that are not given."""
        wanted = set(labels.items())
        with self._lock:
            return sum(v for k, v in self._values[name].items() if wanted <= set(k))

    def text(self) -> str:
        """What `/metrics` answers."""
        lines = []
        with self._lock:
            for name, (type_, text) in HELP.items():
                lines += [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} {type_}"]
                for labels, value in sorted(self._values[name].items()):
                    shown = ",".join(f'{k}="{_escaped(v)}"' for k, v in labels)
                    lines.append(f"{PREFIX}{name}{f'{{{shown}}}' if shown else ''} {value:g}")
        return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
