"""Whether the namespace's ResourceQuotas and LimitRanges let the release's pods in. Pure.

Kubernetes tells of neither until a controller fails to make a pod, in an event that nobody waits for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from mlflow_platform.errors import Problem

#: A quota's short names for what a pod asks for (pkg/quota/v1/evaluator/core/pods.go).
_ALIASES = {"cpu": "requests.cpu", "memory": "requests.memory"}
_COUNTED = ("requests.cpu", "requests.memory", "limits.cpu", "limits.memory")

#: Quota's name of a resource -> how much of it.
Amounts = dict[str, Decimal]


def check(
    wanted: Sequence[Mapping[str, Any]],
    own: Sequence[Mapping[str, Any]],
    quotas: Iterable[Mapping[str, Any]],
    ranges: Sequence[Mapping[str, Any]],
) -> list[Problem]:
    """`wanted`: rendered objects; `own`: the release's pods and claims that are there and count already."""
    pods = list(_pods(wanted))
    problems = [p for owner, pod in pods for p in _outside(owner, pod, ranges)]
    need = _sum([_most(pods, ranges), _claims(wanted)])
    present = _present(own, ranges)
    for quota in quotas:
        if quota["spec"].get("scopes") or quota["spec"].get("scopeSelector"):
            continue  # of pods of a certain class, which ours need not be
        problems += _beyond(quota, need, present)
        problems += _unsaid(quota, pods, ranges)
    return problems


def _beyond(quota: Mapping[str, Any], need: Amounts, present: Amounts) -> Iterator[Problem]:
    used = quota.get("status", {}).get("used", {})
    for key, hard in quota["spec"].get("hard", {}).items():
        name = _ALIASES.get(key, key.removeprefix("count/"))
        others = _number(used.get(key, 0)) - present.get(name, Decimal(0))
        if need.get(name) and _number(hard) - others < need[name]:
            yield Problem(
                f"ResourceQuota {quota['metadata']['name']} allows {hard} {key}, others use {_text(others)}, "
                f"the release needs {_text(need[name])}",
                "have it raised, or lower the resources, replicas or storage in the values",
            )


def _unsaid(
    quota: Mapping[str, Any],
    pods: Sequence[tuple[str, Mapping[str, Any]]],
    ranges: Sequence[Mapping[str, Any]],
) -> Iterator[Problem]:
    """Where a quota counts something, a pod that does not say how much of it is refused."""
    for key in quota["spec"].get("hard", {}):
        name = _ALIASES.get(key, key)
        if name not in _COUNTED:
            continue
        part, resource = name.split(".")
        silent = {o for o, p in pods for c in _containers(p) if resource not in _resources(c, ranges)[part]}
        if silent:
            yield Problem(
                f"ResourceQuota {quota['metadata']['name']} counts {key}, which {', '.join(sorted(silent))} "
                "does not name",
                f"set it in the values' resources.{part}, or have a LimitRange give a default",
            )


def _outside(owner: str, pod: Mapping[str, Any], ranges: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    for found in ranges:
        for limit in found["spec"].get("limits", []):
            if limit["type"] == "Container":
                parts = [
                    (f"{owner}'s container {c['name']}", _resources(c, ranges)) for c in _containers(pod)
                ]
            elif limit["type"] == "Pod":
                parts = [(f"{owner}'s pod", _pod(pod, ranges))]
            else:
                continue
            name = found["metadata"]["name"]
            for what, asked in parts:
                for resource, most in limit.get("max", {}).items():
                    has = max(
                        asked["limits"].get(resource, Decimal(0)), asked["requests"].get(resource, Decimal(0))
                    )
                    if has > _number(most):
                        yield Problem(
                            f"LimitRange {name} allows {most} {resource}, {what} asks for {_text(has)}",
                            "have it raised, or lower the resources in the values",
                        )
                for resource, least in limit.get("min", {}).items():
                    has = asked["requests"].get(resource, Decimal(0))
                    if has < _number(least):
                        yield Problem(
                            f"LimitRange {name} wants {least} {resource}, {what} asks for {_text(has)}",
                            "raise the resources in the values, or have it lowered",
                        )


def _most(pods: Sequence[tuple[str, Mapping[str, Any]]], ranges: Sequence[Mapping[str, Any]]) -> Amounts:
    """What is there at the same time at most: all that stays, and one Job or one more server in a rollout."""
    stays, one_more = [], Amounts()
    for owner, pod in pods:
        count = _count(_pod(pod, ranges))
        kind = owner.split("/")[0]
        if kind != "Job":
            stays += [count] * pod["replicas"]
        if kind != "StatefulSet":
            one_more = {key: max(value, one_more.get(key, Decimal(0))) for key, value in count.items()}
    return _sum([*stays, one_more])


def _pods(wanted: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Owner and pod spec, with the number of replicas that the owner, or its autoscaler, begins with."""
    least = {
        o["spec"]["scaleTargetRef"]["name"]: o["spec"]["minReplicas"]
        for o in wanted
        if o["kind"] == "HorizontalPodAutoscaler"
    }
    for found in wanted:
        if found["kind"] in ("Deployment", "StatefulSet", "Job"):
            name = found["metadata"]["name"]
            replicas = found["spec"].get("replicas", least.get(name, 1))
            yield f"{found['kind']}/{name}", {**found["spec"]["template"]["spec"], "replicas": replicas}


def _claims(wanted: Sequence[Mapping[str, Any]]) -> Amounts:
    return _sum(
        _claim(claim)
        for found in wanted
        for claim in found.get("spec", {}).get("volumeClaimTemplates", [])
        for _ in range(found["spec"]["replicas"])
    )


def _present(own: Sequence[Mapping[str, Any]], ranges: Sequence[Mapping[str, Any]]) -> Amounts:
    return _sum(
        _claim(found) if found["kind"] == "PersistentVolumeClaim" else _count(_pod(found["spec"], ranges))
        for found in own
        if found.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    )


def _claim(claim: Mapping[str, Any]) -> Amounts:
    size = _number(claim["spec"]["resources"]["requests"]["storage"])
    return {"persistentvolumeclaims": Decimal(1), "requests.storage": size}


def _count(asked: Mapping[str, Mapping[str, Decimal]]) -> Amounts:
    count = {"pods": Decimal(1)}
    for key in _COUNTED:
        part, resource = key.split(".")
        count[key] = asked[part].get(resource, Decimal(0))
    return count


def _sum(parts: Iterable[Amounts]) -> Amounts:
    total = Amounts()
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, Decimal(0)) + value
    return total


def _pod(pod: Mapping[str, Any], ranges: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Decimal]]:
    """The sum of its containers, or what its largest init container asks for."""
    total: dict[str, dict[str, Decimal]] = {"requests": {}, "limits": {}}
    for part, sums in total.items():
        for container in pod["containers"]:
            for resource, value in _resources(container, ranges)[part].items():
                sums[resource] = sums.get(resource, Decimal(0)) + value
        for container in pod.get("initContainers", []):
            for resource, value in _resources(container, ranges)[part].items():
                sums[resource] = max(sums.get(resource, Decimal(0)), value)
    return total


def _containers(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*pod["containers"], *pod.get("initContainers", [])]


def _resources(
    container: Mapping[str, Any], ranges: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Decimal]]:
    """Requests and limits with the LimitRanges' defaults, as admission fills them in."""
    asked = container.get("resources", {})
    limits = {k: _number(v) for k, v in asked.get("limits", {}).items()}
    requests = {k: _number(v) for k, v in asked.get("requests", {}).items()}
    defaults = [x for r in ranges for x in r["spec"].get("limits", []) if x["type"] == "Container"]
    for one in defaults:
        # A missing default is the maximum (pkg/apis/core/v1/defaults.go, SetDefaults_LimitRangeItem).
        for key, value in {**one.get("max", {}), **one.get("default", {})}.items():
            limits.setdefault(key, _number(value))
    for one in defaults:
        for key, value in one.get("defaultRequest", {}).items():
            requests.setdefault(key, _number(value))
    for key, amount in limits.items():
        requests.setdefault(key, amount)
    return {"requests": requests, "limits": limits}


def _number(quantity: Any) -> Decimal:
    from kubernetes.utils.quantity import parse_quantity

    return Decimal(parse_quantity(str(quantity)))


def _text(value: Decimal) -> str:
    for unit, size in (("Gi", 2**30), ("Mi", 2**20)):
        if value >= size:
            return f"{(value / size).quantize(Decimal('0.1')).normalize():f}{unit}"
    return f"{value.normalize():f}"
