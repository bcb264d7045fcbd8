"""Agents: their settings from YAML, and a registry of their versions with history and rollback."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from mlflow_platform.client.session import Session
from mlflow_platform.errors import BadDocuments, BadInput, Location, Problem, Rejected

#: Settings that are about logging, with their types; everything else is the agent's own.
_LOGGING = {"mlflow_experiment": str, "log_prompts": bool, "log_artifacts": bool}


@dataclass(frozen=True)
class AgentSettings:
    """An agent's YAML file: where it logs to and what of it, and its own settings."""

    mlflow_experiment: str
    log_prompts: bool = True
    log_artifacts: bool = True
    own: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file. Raises `BadDocuments` with every mistake's line."""
        node, values = _read(Path(path))
        if not isinstance(values, dict):
            raise BadDocuments(
                [Problem("an agent's settings are a mapping", where=Location(str(path), 1, 1))]
            )
        marks = {key.value: key.start_mark for key, _ in node.value} if node else {}
        problems = []
        for name, kind in _LOGGING.items():
            if name in values and not isinstance(values[name], kind):
                mark = marks.get(name)  # none where it was merged from elsewhere
                where = Location(str(path), mark.line + 1, mark.column + 1) if mark else Location(str(path))
                what = f"{name} is {values[name]!r}, not {'true or false' if kind is bool else 'a text'}"
                problems.append(Problem(what, where=where))
        if not values.get("mlflow_experiment"):
            problems.append(
                Problem(
                    "mlflow_experiment is missing",
                    "name the experiment that the agent logs to",
                    Location(str(path)),
                )
            )
        if problems:
            raise BadDocuments(problems)
        logging = {name: values[name] for name in _LOGGING if name in values}
        return cls(**logging, own={k: v for k, v in values.items() if k not in _LOGGING})


def _read(path: Path) -> tuple[Any, Any]:
    """A YAML file as its nodes, which know their lines, and as values. Raises `BadDocuments`."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except ValueError as error:  # of a day that no month has, for one: YAML takes it for a date
                raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error

    data, line, column = b"", 0, 0
    try:
        data = path.read_bytes()
        loader = Loader(text := data.decode())
        node = loader.get_single_node()
        return node, loader.construct_document(node) if node else None
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        what = f"no UTF-8: the byte {data[error.start]:#04x}; save it as UTF-8"
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode()) + 1
    except yaml.reader.ReaderError as error:
        what = f"no YAML: the character {error.character:#06x}"
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
    except yaml.MarkedYAMLError as error:
        what = f"no YAML: {error.problem}"
        if mark := error.problem_mark:
            line, column = mark.line + 1, mark.column + 1
    except RecursionError:
        what = "nested too deeply"
    raise BadDocuments([Problem(what, where=Location(str(path), line, column))])


@dataclass(frozen=True)
class Deployment:
    """One entry of an agent's history: `version` was put into use at `time` (ISO 8601, UTC), as something new
    or as a rollback."""

    version: str
    time: str
    reason: str
    rollback: bool = False


class AgentRegistry:
    """Versions of agents' configurations, in MLflow's model registry: one registered model an agent.

    A version's configuration is `agent.json` among the artifacts of the run that registered it. The alias
    `deployed` is the version in use; the history of deployments is in the registered model's tags. These
    calls need the server: they wait for it, and raise `Rejected` or what MLflow raises.
    """

    ALIAS = "deployed"
    _HISTORY = "mlplatform.deployment."
    _DIGEST = "mlplatform.agent.sha256"

    def __init__(self, session: Session | None = None) -> None:
        self._session = session or Session()

    def register(self, agent: str, configuration: Mapping[str, Any]) -> str:
        """The version that has this configuration: a new one, unless one has it already."""
        text = json.dumps(configuration, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        digest = hashlib.sha256(text.encode()).hexdigest()
        connection = self._session.need()
        client = connection.client
        self._model(agent, create=True)
        for version in self._versions(agent):
            if version.tags.get(self._DIGEST) == digest:
                return str(version.version)
        run = client.create_run(connection.experiment_id, run_name=f"register {agent}", tags={"agent": agent})
        run_id = run.info.run_id
        client.log_text(run_id, text, "agent/agent.json")
        client.set_terminated(run_id)
        made = client.create_model_version(
            agent, f"{run.info.artifact_uri}/agent", run_id, tags={self._DIGEST: digest}
        )
        return str(made.version)

    def configuration(self, agent: str, version: str | None = None) -> dict[str, Any]:
        """The configuration of a version; of the one in use if none is given."""
        client = self._session.need().client
        if version is None:
            version = self.deployed(agent)
            if version is None:
                raise Rejected(f"no version of the agent {agent!r} is deployed")
        run_id = client.get_model_version(agent, version).run_id
        from mlflow.artifacts import load_dict

        found: dict[str, Any] = load_dict(f"runs:/{run_id}/agent/agent.json")
        return found

    def deploy(self, agent: str, version: str, *, reason: str = "") -> Deployment:
        """Put a version into use, and note it in the history. Nothing, where it is in use already."""
        return self._deploy(agent, version, reason, rollback=False)

    def _deploy(self, agent: str, version: str, reason: str, *, rollback: bool) -> Deployment:
        client = self._session.need().client
        client.get_model_version(agent, version)
        history = self.history(agent)
        if history and history[-1].version == version and self.deployed(agent) == version:
            return history[-1]
        entry = Deployment(version, datetime.now(UTC).isoformat(), reason, rollback)
        tag = f"{self._HISTORY}{len(history) + 1:06}"
        client.set_registered_model_tag(agent, tag, json.dumps(astuple(entry)))
        client.set_registered_model_alias(agent, self.ALIAS, version)
        return entry

    def deployed(self, agent: str) -> str | None:
        """The version in use."""
        version = self._model(agent).aliases.get(self.ALIAS)
        return None if version is None else str(version)

    def history(self, agent: str) -> list[Deployment]:
        """Every deployment, oldest first."""
        tags = self._model(agent).tags
        return [Deployment(*json.loads(tags[k])) for k in sorted(tags) if k.startswith(self._HISTORY)]

    def rollback(self, agent: str, *, reason: str = "") -> Deployment:
        """Back to the version that was in use before; again: to the one before that. Raises `Rejected` where
        there was none."""
        in_turn = standing(self.history(agent))
        if len(in_turn) < 2:
            raise Rejected(f"the agent {agent!r} has no deployment to go back to")
        return self._deploy(agent, in_turn[-2], reason, rollback=True)

    def _model(self, agent: str, *, create: bool = False) -> Any:
        from mlflow.exceptions import MlflowException

        client = self._session.need().client
        try:
            return client.get_registered_model(agent)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            if not create:
                raise Rejected(f"there is no agent {agent!r}", remedy="register it first") from error
        try:
            return client.create_registered_model(agent, tags={"mlplatform.kind": "agent"})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise BadInput(f"the agent {agent!r} cannot be registered: {error.message}") from error
            return client.get_registered_model(agent)

    def _versions(self, agent: str) -> list[Any]:
        quoted = agent.replace("'", "''")
        return list(
            self._session.need().client.search_model_versions(f"name='{quoted}'", max_results=200_000)
        )


def standing(history: Sequence[Deployment]) -> list[str]:
    """The versions that a history comes down to: a rollback takes back the deployment before it. The last one
    is in use."""
    stack: list[str] = []
    for entry in history:
        if entry.rollback and len(stack) > 1:
            stack.pop()
        else:
            stack.append(entry.version)
    return stack
