"""What the models check between fields, again as CEL for kube-apiserver.

A rule sits where its fields are; `self` is the value at that place. Rules that compare with `oldSelf` sit on
`spec` (or on an item of a keyed list), so that adding and removing a field counts as a change. What CEL
cannot say (the number of members of a set, equal contents of two versions) is left to the operator.
Tests hold that kube-apiserver refuses nothing that the models accept, and what it lets pass of what they
refuse is listed there.
"""

from __future__ import annotations

from typing import NamedTuple

Place = tuple[str, ...]
"""Kind, then field names; `[]` is an item of a list, `{}` a value of a map."""


class Rule(NamedTuple):
    """A CEL expression that must hold, and what to say where it does not."""

    cel: str
    message: str
    field: str = ""


def _regex(pattern: str) -> str:
    """A pattern as a CEL literal."""
    return "'" + pattern.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _matches(pattern: str, of: str = "self") -> str:
    return f"{of}.matches({_regex(pattern)})"


def _unchanged(field: str) -> str:
    """That an optional field of `self` is as it was, there or not."""
    now, before = f"self.{field}", f"oldSelf.{field}"
    return f"has({now}) == has({before}) && (!has({now}) || {now} == {before})"


def _fixed(*fields: str) -> tuple[Rule, ...]:
    """Fields that say which object is meant: changed, the document would be about another one."""
    said = "cannot be changed: make another document, and delete this one"
    return tuple(Rule(_unchanged(name), f"{name} {said}") for name in fields)


def _some(*fields: str) -> str:
    """That at least one of the optional fields is there."""
    return " || ".join(f"has(self.{name})" for name in fields)


def _at_least(seconds: int) -> str:
    """That a duration (model/retention_policy.py: `DURATION`) is no shorter."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
    number = "int(self.substring(0, size(self) - 1))"
    return " || ".join(f"self.endsWith('{u}') && {number} >= {-(-seconds // by)}" for u, by in units.items())


#: model/fields.py: `unlike_a_path`.
_PATH = r"(^\.\.|(^|/)\.{0,2}(/|$))"
_RESERVED_TAG = r"^(mlplatform\.io/|mlflow\.|_mlflow_)"
_RESERVED_ALIAS = r"^([lL][aA][tT][eE][sS][tT]|[vV]\p{Nd}+)$"
_NOT_BLANK = r"[^\s]"
_RUN = r"^[rR][uU][nN][sS]:/+[^/]*"
_TAGS = (
    Rule(
        f"self.all(k, !{_matches(_RESERVED_TAG, 'k')})",
        "tags that begin with mlplatform.io/, mlflow. or _mlflow_ are reserved; for the description of an "
        "experiment there is the field description",
    ),
    Rule(
        f"self.all(k, !{_matches(_PATH, 'k')})",
        "MLflow takes no tag key that would be another path: no slash at an end, no //, no . or .. between",
    ),
)
_ALIASES = (
    Rule(
        f"self.all(k, !{_matches(_RESERVED_ALIAS, 'k')})",
        "MLflow reserves the aliases latest and v<number>",
    ),
)
_ALIAS_KEYS = Rule(
    "!has(self.aliases) || self.aliases.all(a, !has(self.aliases[a].key) || "
    "(has(self.versions) && self.versions.exists(v, v.key == self.aliases[a].key)))",
    "an alias points at the key of a version that is not declared here",
)
_USERNAME = Rule("!self.contains(':')", "a user whose name holds a colon could never log in")
_LOCATION = Rule("!self.startsWith('runs:')", "artifacts cannot be kept below a run")
_BOTH_KEYS = Rule(
    "has(self.accessKeySecretRef) == has(self.secretKeySecretRef)",
    "only one of the two keys is given: give both, or neither",
)
_LEDGER = "'mlplatform-ledger'"
_PROMPT_NAME = "^[a-zA-Z0-9_.-]+$"
_WEBHOOK_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
_WORKSPACE_NAME = r"^[a-z0-9][-a-z0-9]{0,61}[a-z0-9]$"
_RESERVED_WORKSPACES = "['workspaces', 'api', 'ajax-api', 'static-files']"
_WILDCARD_ONLY = (
    "['workspace', 'run', 'trace', 'assessment', 'logged_model', 'review_queue', 'registered_model_version', "
    "'prompt_version', 'scorer_version', 'mcp_server_version']"
)
_IDENTITY = _fixed("name", "server", "workspace")

RULES: dict[Place, tuple[Rule, ...]] = {
    ("Experiment",): (
        Rule(
            f"has(self.spec.name) || self.metadata.name != {_LEDGER}",
            "the name mlplatform-ledger is reserved: the platform keeps its records there",
        ),
    ),
    ("Experiment", "spec"): (
        *_IDENTITY,
        Rule(
            "!has(self.name) || self.name != 'Default' || self.deletionPolicy != 'Delete'",
            "MLflow puts every run that names no experiment into Default, so it must not be deleted",
        ),
    ),
    ("Experiment", "spec", "name"): (
        Rule(
            f"self != {_LEDGER}",
            "the name mlplatform-ledger is reserved: the platform keeps its records there",
        ),
    ),
    ("Experiment", "spec", "artifactLocation"): (_LOCATION,),
    ("Experiment", "spec", "tags"): _TAGS,
    ("Experiment", "spec", "grants", "[]", "user"): (_USERNAME,),
    ("ExperimentSet", "spec"): (
        *_fixed("server"),
        Rule(
            "!has(self.exclude) || self.exclude.all(e, size(e) > 0)",
            "an empty entry of exclude would exclude every member",
        ),
        Rule(
            "!has(self.exclude) || self.exclude.all(e, e.all(a, a in self.matrix))",
            "exclude names an axis that the matrix does not have",
        ),
    ),
    ("ExperimentSet", "spec", "template", "tags"): _TAGS,
    ("ExperimentSet", "spec", "template", "grants", "[]", "user"): (_USERNAME,),
    ("RegisteredModel", "spec"): (*_IDENTITY, _ALIAS_KEYS),
    ("RegisteredModel", "spec", "name"): (
        Rule(
            f"!self.contains('/') && !self.contains(':') && {_matches(_NOT_BLANK)} && !{_matches(_PATH)}",
            "MLflow takes no model name with / or :, none that is blank, . or ..",
        ),
    ),
    ("RegisteredModel", "spec", "tags"): _TAGS,
    ("RegisteredModel", "spec", "aliases"): _ALIASES,
    ("RegisteredModel", "spec", "aliases", "{}"): (
        Rule("has(self.version) != has(self.key)", "an alias has either a version or a key"),
    ),
    ("RegisteredModel", "spec", "versions", "[]"): (
        *(
            Rule(
                _unchanged(f),
                f"{f} of a version cannot be changed: declare another version, with another key",
            )
            for f in ("source", "runId")
        ),
        Rule("!" + _matches(r"(^|/)\.\.(/|$)", "self.source"), "MLflow takes no source with .. in it"),
        Rule(
            f"self.source.find({_regex(_RUN)}) == '' || (has(self.runId) && "
            f"self.source.find({_regex(_RUN)}).endsWith('/' + self.runId))",
            "a source runs:/<id>/... needs that id as runId",
        ),
        Rule(
            "has(self.runId) || !" + _matches("^(mlflow-artifacts|file):", "self.source") + " && "
            "self.source.contains(':/')",
            "MLflow takes a local path and mlflow-artifacts: only together with the runId that it belongs to",
        ),
    ),
    ("Prompt", "spec"): (*_IDENTITY, _ALIAS_KEYS),
    ("Prompt", "spec", "name"): (
        Rule(
            f"{_matches(_PROMPT_NAME)} && !{_matches(_PATH)}",
            "MLflow takes names of letters, digits, dots, dashes and underscores, not .. first",
        ),
    ),
    ("Prompt", "spec", "tags"): _TAGS,
    ("Prompt", "spec", "aliases"): _ALIASES,
    ("Prompt", "spec", "versions", "[]"): (
        Rule("has(self.template) != has(self.messages)", "a version has either a template or messages"),
        *(
            Rule(
                _unchanged(f),
                "the content of a version cannot be changed: declare another version, with another key",
            )
            for f in ("template", "messages")
        ),
    ),
    ("MLflowUser", "spec"): _fixed("name", "server"),
    ("MLflowUser", "spec", "name"): (_USERNAME,),
    ("MLflowRole", "spec"): _IDENTITY,
    ("MLflowRole", "spec", "name"): (
        Rule("!self.startsWith('__user_')", "MLflow reserves role names that begin with __user_"),
    ),
    ("MLflowRole", "spec", "members", "[]"): (_USERNAME,),
    ("MLflowRole", "spec", "permissions", "[]"): (
        Rule(
            f"self.resource == '*' || !(self.resourceType in {_WILDCARD_ONLY})",
            "MLflow gives permissions on this resourceType for all of them only: leave resource out",
        ),
        Rule(
            "self.resourceType != 'workspace' || self.permission in ['USE', 'MANAGE']",
            "on a workspace there are USE (a member) and MANAGE (an administrator of it)",
        ),
        Rule(
            "self.resourceType != 'scorer' || self.resource == '*' || self.resource.contains('/')",
            "a scorer is named <experiment>/<scorer>",
        ),
    ),
    ("Webhook",): (
        Rule(
            f"has(self.spec.name) || {_matches(_WEBHOOK_NAME, 'self.metadata.name')}",
            "MLflow takes webhook names of at most 63 letters, digits, dots, dashes and underscores: "
            "set spec.name",
        ),
    ),
    ("Webhook", "spec"): _IDENTITY,
    ("Webhook", "spec", "name"): (
        Rule(
            _matches(_WEBHOOK_NAME),
            "use at most 63 letters, digits, dots, dashes and underscores, a letter or digit at both ends",
        ),
    ),
    ("Workspace",): (
        Rule(
            f"has(self.spec.name) || ({_matches(_WORKSPACE_NAME, 'self.metadata.name')} && "
            f"!(self.metadata.name in {_RESERVED_WORKSPACES}))",
            "MLflow takes no workspace of this name: set spec.name",
        ),
    ),
    ("Workspace", "spec"): _fixed("name", "server"),
    ("Workspace", "spec", "name"): (
        Rule(f"!(self in {_RESERVED_WORKSPACES})", "MLflow reserves this name of a workspace"),
    ),
    ("Workspace", "spec", "defaultArtifactRoot"): (_LOCATION,),
    ("RetentionPolicy", "spec", "rules"): (
        Rule(
            _some("runs", "traces", "loggedModels", "modelVersions", "experiments", "orphans"),
            "the policy has no rule: write at least one, such as runs.softDeletedFor",
        ),
    ),
    ("RetentionPolicy", "spec", "rules", "runs"): (
        Rule(
            _some("olderThan", "failedOlderThan", "keepLast", "keepBest", "softDeletedFor"),
            "these rules choose no run: write olderThan, failedOlderThan, keepLast or softDeletedFor",
        ),
    ),
    ("RetentionPolicy", "spec", "rules", "loggedModels"): (
        Rule(
            _some("olderThan", "softDeletedFor"),
            "these rules choose no logged model: write olderThan or softDeletedFor",
        ),
    ),
    ("RetentionPolicy", "spec", "rules", "orphans", "olderThan"): (
        Rule(
            _at_least(86_400),
            "an upload may take hours, and its run is in no table before MLflow has committed it: write at "
            "least 1d",
        ),
    ),
    ("RetentionPolicy", "spec", "window"): (Rule("self.start != self.end", "the window is empty"),),
    ("RetentionPolicy", "spec", "archive"): (
        _BOTH_KEYS,
        Rule(
            "!has(self.endpoint) || has(self.accessKeySecretRef)",
            "another endpoint needs keys of its own: the server's are not sent elsewhere",
        ),
    ),
    ("BackupSchedule", "spec", "destination"): (_BOTH_KEYS,),
    ("BackupSchedule", "spec", "keep"): (
        Rule(_some("last", "age"), "this keeps nothing: write last or age, or leave keep out"),
    ),
    ("TrackingServer", "spec", "allowed", "[]", "namespaceSelector", "matchExpressions", "[]"): (
        Rule(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "give values for In and NotIn, none for Exists and DoesNotExist",
        ),
    ),
}

#: Lists whose items have an identity: () for the item itself, else its fields. Kept unique by the API server.
LIST_KEYS: dict[Place, tuple[str, ...]] = {
    ("Experiment", "spec", "grants"): ("user",),
    ("ExperimentSet", "spec", "template", "grants"): ("user",),
    ("RegisteredModel", "spec", "versions"): ("key",),
    ("Prompt", "spec", "versions"): ("key",),
    ("MLflowRole", "spec", "permissions"): ("resourceType", "resource"),
    ("MLflowRole", "spec", "members"): (),
    ("Webhook", "spec", "events"): (),
    ("ExperimentSet", "spec", "matrix", "{}"): (),
}


def key_rule(path: Place, pattern: str | None, longest: int | None) -> Rule:
    """The rule for the names of a map: their form and length, which a structural schema cannot state."""
    name = path[-1]
    parts = [_matches(pattern, "k")] if pattern else []
    parts.append(f"size(k) > 0 && size(k) <= {longest}" if longest else "size(k) > 0")
    said = f"at most {longest} characters" if longest else "not empty"
    return Rule(f"self.all(k, {' && '.join(parts)})", f"names in {name}: {said}, of those that MLflow takes")
