"""Changes the deployment's passwords and keys while it serves: database, administrator, object store.

Each goes the same way: what comes next is written to a Secret of its own (`<release>-<what>-rotation`), a Job
in the cluster makes it valid beside the present one, the Secret that everybody reads is changed once, the
pods are rolled, another Job ends what was before, and the rotation's Secret is deleted. That Secret is all
the state there is: a command killed anywhere is finished by the next one, which takes up what is in it.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.chart import Release
from mlflow_platform.deploy import jobs, phases
from mlflow_platform.deploy.credentials import Credentials, decoded, encoded
from mlflow_platform.deploy.deployment import Screen, secret_versions
from mlflow_platform.deploy.waiting import wait
from mlflow_platform.errors import BadInput, Rejected, Transient

#: The Jobs' label `component` (chart: networkpolicies.yaml.j2).
COMPONENT = "rotate"
#: How long one Job may take, in seconds: it waits for a backup or a migration to end.
JOB_SECONDS = 900
#: Variables of the server by which the Secrets are found (chart: server.yaml.j2).
DATABASE, ADMIN, STORE = "PGPASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD", "AWS_ACCESS_KEY_ID"
#: On pods: that Secrets changed. kubelet looks at a pod's volumes once a minute, or when the pod changes.
READ_AGAIN = "mlplatform.io/secrets-read-again"


@dataclass
class Outcome:
    """What a rotation did: the Secret it changed, seconds a step, the Jobs' words, what is left to do."""

    secret: str
    seconds: dict[str, float] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    remaining: str = ""


@dataclass
class Rotation:
    """A deployed release. `timeout` is of one step, in seconds; it does not cut a rollout's drain short."""

    cluster: Cluster
    release: Release
    timeout: float = 900.0
    screen: Screen = field(default_factory=Screen)

    def __post_init__(self) -> None:
        self.credentials = Credentials(self.cluster, self.release)

    def database(self, administrator: str = "") -> Outcome:
        """A new password, for the role that was not in use. `administrator` names a Secret (username,
        password) with a login that may alter roles; default: the servers' own."""
        servers = self._servers()
        name = self._reference(servers, DATABASE)
        outcome = Outcome(name)
        present = self.credentials.present(name)
        user = decoded(present, "username")
        if not (staged := self.credentials.staged("database")):
            self._roll(name, outcome, "servers up to date")
            database = _value(servers, "PGDATABASE")
            following = {"username": other_role(database, user), "password": secrets.token_hex(16)}
            staged = self.credentials.stage("database", {**following, "previousUsername": user})
        environment = _database_environment(servers, administrator)
        if self.credentials.is_next(present, staged, "username", "previousUsername"):
            variables = {"NEXT_USER": "username", "NEXT_PASSWORD": "password"}
            extra = [self._variable("database", k, v) for k, v in variables.items()]
            with self._step("next role", outcome):
                outcome.words += self._job(servers, ["roles", "prepare"], [*environment, *extra])
            self._switch(present, {k: staged[k] for k in ("username", "password")}, outcome)
        self._roll(name, outcome, "servers")
        extra = [self._variable("database", "PREVIOUS_USER", "previousUsername")]
        with self._step("previous role", outcome):
            outcome.words += self._job(servers, ["roles", "retire"], [*environment, *extra])
        self.credentials.unstage("database")
        return outcome

    def store(self, from_secret: str = "") -> Outcome:
        """A new pair of keys: made here for the bundled store, else brought in the Secret `from_secret`."""
        servers = self._servers()
        name = self._reference(servers, STORE)
        outcome = Outcome(name)
        present = self.credentials.present(name)
        keys = ("accessKeyId", "secretAccessKey")
        bundled = _value(servers, "MLFLOW_S3_ENDPOINT_URL") == f"http://{self.release.name}-store:8333"
        staged = self.credentials.staged("store")
        if not staged:
            if not bundled and not from_secret:
                raise BadInput(
                    "the store is not this deployment's: only its owner can make a pair of keys",
                    remedy="bring it in a Secret (accessKeyId, secretAccessKey): --from-secret NAME",
                )
            self._roll(name, outcome, "servers up to date")
            following = {"accessKeyId": secrets.token_hex(10), "secretAccessKey": secrets.token_hex(20)}
            if from_secret:
                brought = self.credentials.present(from_secret, ours=False)
                following = {k: decoded(brought, k) for k in keys}
            if following["accessKeyId"] == decoded(present, "accessKeyId"):
                raise BadInput(
                    f"Secret {from_secret} holds the pair that is in use", remedy="bring a new one"
                )
            previous = decoded(present, "accessKeyId")
            staged = self.credentials.stage("store", {**following, "previousAccessKeyId": previous})
        environment = [
            *_database_environment(servers),
            *_environment(servers, "AWS_", "MLFLOW_S3_ENDPOINT_URL"),
        ]
        if self.credentials.is_next(present, staged, "accessKeyId", "previousAccessKeyId"):
            variables = {"NEXT_ACCESS_KEY_ID": keys[0], "NEXT_SECRET_ACCESS_KEY": keys[1]}
            extra = [self._variable("store", k, v) for k, v in variables.items()]
            place = _value(servers, "MLFLOW_ARTIFACTS_DESTINATION").removeprefix("s3://")
            command = ["store_keys", "prepare", place, *(["--add"] if bundled else [])]
            with self._step("next pair", outcome):
                outcome.words += self._job(servers, command, [*environment, *extra])
            self._switch(present, {k: staged[k] for k in keys}, outcome)
        self._roll(name, outcome, "servers")
        if bundled:
            extra = [self._variable("store", "PREVIOUS_ACCESS_KEY_ID", "previousAccessKeyId")]
            with self._step("previous pair", outcome):
                outcome.words += self._job(servers, ["store_keys", "retire"], [*environment, *extra])
        else:
            outcome.remaining = (
                f"revoke the previous pair, {staged['previousAccessKeyId']}, at the store's owner"
            )
        self.credentials.unstage("store")
        return outcome

    def admin(self, overlap: float) -> Outcome:
        """A new password of the administrator. The previous one is accepted for `overlap` seconds more."""
        servers = self._servers()
        name = self._reference(servers, ADMIN)
        outcome = Outcome(name)
        present = self.credentials.present(name)
        own = f"{self.release.name}-auth-rotation"
        if not any(v.get("secret", {}).get("secretName") == own for v in _pod(servers)["volumes"]):
            raise BadInput("an older version made this deployment", remedy="deploy it once, then rotate")
        staged = self.credentials.staged("auth")
        if "password" not in staged:
            self._roll(name, outcome, "servers up to date")
            previous = unexpired(staged, time.time()) | {decoded(present, "password"): None}
            staged = self.credentials.stage(
                "auth", {"password": secrets.token_hex(16), "previous": json.dumps(previous)}
            )
        if present["data"].get("password") != encoded(staged["password"]):
            extra = [
                self._of(name, "ADMIN_USERNAME", "username"),
                self._of(name, "ADMIN_PASSWORD", "password"),
                self._variable("auth", "NEXT_PASSWORD", "password"),
            ]
            with self._step("next password", outcome):
                addresses = self._read_again(servers)
                outcome.words += self._job(servers, ["admin_login", "change", *addresses], extra)
            self._switch(present, {"password": staged["password"]}, outcome)
        self._roll(name, outcome, "servers")
        end = time.time() + overlap
        previous = {p: end if until is None else until for p, until in json.loads(staged["previous"]).items()}
        # This password is in the other Secret now, and in MLflow.
        self.credentials.restage("auth", {"password": None, "previous": json.dumps(previous)})
        at = time.strftime("%H:%M:%S UTC", time.gmtime(end))
        outcome.remaining = f"the previous password is accepted until {at}; end it now with --finish"
        return outcome

    def finish_admin(self) -> Outcome:
        """End the overlap now: returns when no server accepts a previous password any more."""
        servers = self._servers()
        name = self._reference(servers, ADMIN)
        outcome = Outcome(name)
        staged = self.credentials.staged("auth")
        if "password" in staged:
            outcome = self.admin(0)
            staged = self.credentials.staged("auth")
        if not staged:
            return outcome
        self.credentials.restage(
            "auth", {"previous": json.dumps(dict.fromkeys(json.loads(staged["previous"]), 0))}
        )
        extra = [self._of(name, "ADMIN_USERNAME", "username"), self._variable("auth", "PREVIOUS", "previous")]
        with self._step("previous password", outcome):
            addresses = self._read_again(servers)
            outcome.words += self._job(servers, ["admin_login", "refused", *addresses], extra)
        self.credentials.unstage("auth")
        outcome.remaining = ""
        return outcome

    def _servers(self) -> Mapping[str, Any]:
        name, namespace = f"{self.release.name}-server", self.release.namespace
        found = self.cluster.get("apps/v1", "Deployment", namespace, name)
        if found is None:
            raise BadInput(
                f"there is no release {self.release.name} in namespace {namespace}",
                remedy="name it: --name and --namespace",
            )
        return found

    def _reference(self, servers: Mapping[str, Any], variable: str) -> str:
        """The Secret that a variable of the servers comes from."""
        for one in _server(servers)["env"]:
            if one["name"] == variable and "valueFrom" in one:
                return str(one["valueFrom"]["secretKeyRef"]["name"])
        raise BadInput(
            f"the servers read no Secret for {variable}", remedy="there is nothing to rotate: no key is used"
        )

    def _switch(self, present: Mapping[str, Any], content: Mapping[str, str], outcome: Outcome) -> None:
        with self._step(f"Secret {present['metadata']['name']}", outcome):
            self.credentials.switch(present, content)

    def _roll(self, secret: str, outcome: Outcome, step: str) -> None:
        """Replace the pods that read an older version of the Secret; returns when the last of them is gone.

        A pod that ends still answers, and may open a connection, until its last request is done.
        """
        with self._step(step, outcome):
            labels = {"app.kubernetes.io/instance": self.release.name}
            for live in self.cluster.find("apps/v1", "Deployment", self.release.namespace, labels):
                if secret not in phases.secrets_of(live):
                    continue
                digest = phases.secrets_digest(
                    live, secret_versions(self.cluster, self.release.namespace, live)
                )
                name = live["metadata"]["name"]
                mark = {phases.SECRETS_ANNOTATION: digest}
                if _marks(live["spec"]["template"]) != mark:
                    changes = {"spec": {"template": {"metadata": {"annotations": mark}}}}
                    self.cluster.patch("apps/v1", "Deployment", self.release.namespace, name, changes)
                wait(self.cluster, [live], timeout=self.timeout, say=self.screen.going_on)
                self._gone(live, mark)

    def _gone(self, deployment: Mapping[str, Any], mark: Mapping[str, str]) -> None:
        deadline = time.monotonic() + self.timeout
        while old := [p for p in self._pods(deployment) if _marks(p) != mark]:
            name = old[0]["metadata"]["name"]
            if time.monotonic() > deadline:
                raise Transient(f"pod {name} of before does not end", remedy="see why, then rotate again")
            self.screen.going_on(f"pod {name} ends")
            time.sleep(0.5)

    def _pods(self, deployment: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Those that run, also while they end."""
        labels = deployment["spec"]["selector"]["matchLabels"]
        found = self.cluster.find("v1", "Pod", self.release.namespace, labels)
        return [p for p in found if p.get("status", {}).get("phase") not in ("Succeeded", "Failed")]

    def _read_again(self, servers: Mapping[str, Any]) -> list[str]:
        """Have kubelet look at the pods' Secrets now; the addresses of those that may hold an older one."""
        addresses = []
        mark = {"metadata": {"annotations": {READ_AGAIN: f"{time.time():.3f}"}}}
        for pod in self._pods(servers):
            if not (address := pod.get("status", {}).get("podIP")):
                continue  # it will read them when it starts
            try:
                self.cluster.patch("v1", "Pod", self.release.namespace, pod["metadata"]["name"], mark)
            except Rejected as error:
                if error.code != "403" and error.code != "404":
                    raise  # without the right to, it takes its minute
            host = f"[{address}]" if ":" in address else address
            addresses.append(f"http://{host}:5000")
        if not addresses:
            raise Transient("no server runs", remedy="deploy, then rotate again")
        return addresses

    def _job(
        self, servers: Mapping[str, Any], command: Sequence[str], env: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        wanted = job(servers, command, env)
        return jobs.run(self.cluster, wanted, timeout=JOB_SECONDS, say=self.screen.going_on)

    def _variable(self, what: str, name: str, key: str) -> Mapping[str, Any]:
        return self._of(f"{self.release.name}-{what}-rotation", name, key)

    @staticmethod
    def _of(secret: str, name: str, key: str) -> Mapping[str, Any]:
        return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}

    @contextmanager
    def _step(self, name: str, outcome: Outcome) -> Iterator[None]:
        self.screen.started(name)
        began = time.monotonic()
        yield
        outcome.seconds[name] = time.monotonic() - began
        self.screen.ended(name, outcome.seconds[name])


def job(
    servers: Mapping[str, Any], command: Sequence[str], env: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """With all volumes of the servers: variables of theirs name files there, such as a client certificate."""
    module, *arguments = command
    wanted = jobs.job(
        servers,
        COMPONENT,
        ["python", "-m", f"mlflow_platform.server.{module}", *arguments],
        [{"name": "HOME", "value": "/tmp"}, *env],  # noqa: S108 - the pod's own
        seconds=JOB_SECONDS,
        volumes=[v["name"] for v in _pod(servers)["volumes"]],
    )
    # Not one of the chart's objects: a deployment that runs meanwhile must not remove it as a leftover.
    del wanted["metadata"]["labels"]["app.kubernetes.io/managed-by"]
    return wanted


def other_role(database: str, user: str) -> str:
    """The role whose turn it is. Named after the database, for roles belong to a whole Postgres server."""
    first, second = (f"{database[:61]}_{letter}" for letter in "ab")  # 63 bytes: Postgres' NAMEDATALEN - 1
    return second if user == first else first


def unexpired(staged: Mapping[str, str], now: float) -> dict[str, float | None]:
    """Previous passwords of earlier rotations that are still promised to be accepted, and until when."""
    previous: Mapping[str, float | None] = json.loads(staged.get("previous", "{}"))
    return {p: until for p, until in previous.items() if until is None or until > now}


def _database_environment(servers: Mapping[str, Any], administrator: str = "") -> list[Mapping[str, Any]]:
    keys = {"PGUSER": "username", "PGPASSWORD": "password"}
    found: list[Mapping[str, Any]] = []
    for one in _environment(servers, "PG"):
        if administrator and (key := keys.get(one["name"])):
            reference = {"secretKeyRef": {"name": administrator, "key": key}}
            found.append({"name": one["name"], "valueFrom": reference})
        else:
            found.append(one)
    return found


def _environment(servers: Mapping[str, Any], *starts: str) -> list[Mapping[str, Any]]:
    return [one for one in _server(servers)["env"] if one["name"].startswith(starts)]


def _value(servers: Mapping[str, Any], variable: str) -> str:
    return next((str(e.get("value", "")) for e in _server(servers)["env"] if e["name"] == variable), "")


def _pod(servers: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = servers["spec"]["template"]["spec"]
    return found


def _server(servers: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(c for c in _pod(servers)["containers"] if c["name"] == "server")


def _marks(found: Mapping[str, Any]) -> dict[str, str]:
    annotations = found["metadata"].get("annotations") or {}
    return {k: v for k, v in annotations.items() if k == phases.SECRETS_ANNOTATION}
