"""What registered models and prompts have in common: numbered versions, and aliases that point at them.

MLflow numbers versions; a document names them by keys. A version that this engine makes bears its key as a
tag, in the create call itself, so that no kill and no lost answer ever makes it twice. Two applies at once
may both make it: the number that MLflow gives tells that somebody else makes versions too, and then the later
of two with one key is removed again. A version made by somebody else has the key `v<number>`, until a
document gives it another one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mlflow_platform.errors import Problem, Rejected
from mlflow_platform.kinds import access
from mlflow_platform.kinds.base import Api, Json, Snapshot
from mlflow_platform.kinds.lists import registered, versions
from mlflow_platform.kinds.tagged import (
    check_created,
    gone_tags,
    new_tags,
    stale_mark,
    tag_list,
    tag_map,
)
from mlflow_platform.kinds.versioned_document import (
    ALIASES,
    BY_KEY,
    BY_NUMBER,
    DESCRIPTION,
    VERSIONS,
    Fields,
    VersionedDocument,
)
from mlflow_platform.plan.objects import (
    MARK_TAG,
    Action,
    Change,
    Desired,
    FieldChange,
    Key,
    Mark,
    Observed,
    Path,
    Value,
)

#: The tag of a version that holds the key by which its document names it.
KEY_TAG = "mlplatform.io/key"
#: In a handle: the name is that of a prompt where a model is wanted, or the other way round.
_TAKEN = "taken"

_MODELS = "api/2.0/mlflow/registered-models/"
_VERSIONS = "api/2.0/mlflow/model-versions/"


class Versioned(VersionedDocument):
    """Registered models, of which prompts are a sort."""

    @abstractmethod
    def content(self, version: Json, tags: Mapping[str, str]) -> dict[str, Value]:
        """What a version is, by a document's names of its fields."""

    @abstractmethod
    def creation(self, content: Mapping[str, Value]) -> Json:
        """The fields of the call that makes a version, `tags` as a mapping."""

    def pair(self, wanted: Fields, found: Sequence[Json]) -> dict[str, Json]:
        """The version that each key means; `wanted` are the fields of the document."""
        paired: dict[str, Json] = {}
        for version in sorted(found, key=_number):
            if key := tag_map(version.get("tags")).get(KEY_TAG):
                paired.setdefault(key, version)
        for version in sorted(found, key=_number):
            if KEY_TAG not in tag_map(version.get("tags")):
                paired.setdefault(default_key(version), version)
        return paired

    def observe(self, snapshot: Snapshot, wanted: Sequence[Desired]) -> Iterable[Observed]:
        declared = {d.key: d.fields for d in wanted}
        for workspace in snapshot.workspaces:
            fetch = snapshot.complete or any(
                key.workspace == workspace and _needs_versions(fields) for key, fields in declared.items()
            )
            by_name = versions(snapshot, workspace, prompts=self.prompts) if fetch else {}
            found = registered(snapshot, workspace, prompts=self.prompts)
            for item in found:
                key = Key(self.name, workspace, item["name"])
                fields = declared.get(key, {})
                yield self._observed(key, item, by_name.get(item["name"], []), fields, snapshot.complete)
            names = {item["name"] for item in found}
            yield from self._taken(
                snapshot, [key for key in declared if key.workspace == workspace and key.name not in names]
            )

    def _taken(self, snapshot: Snapshot, missing: Sequence[Key]) -> Iterator[Observed]:
        """Of objects that are to be made, those whose name the registry has given to the other sort."""
        if not missing:
            return
        others = registered(snapshot, missing[0].workspace, prompts=not self.prompts)
        names = {item["name"] for item in others}
        for key in missing:
            if key.name in names:
                yield Observed(key, {}, absent=True, handle={_TAKEN: True})

    def review(self, change: Change, secrets: Mapping[Path, str]) -> Problem | None:
        if not change.handle.get(_TAKEN):
            return None
        mine, other = ("prompt", "registered model") if self.prompts else ("registered model", "prompt")
        return Problem(
            f"{change.key}: the server has a {other} of this name, and MLflow keeps both in one registry",
            f"give the {mine} another name, or remove the {other}",
        )

    def _observed(
        self, key: Key, item: Json, found: Sequence[Json], wanted: Fields, complete: bool
    ) -> Observed:
        tags = tag_map(item.get("tags"))
        mark = tags.pop(MARK_TAG, None)
        fields: dict[Path, Value] = {DESCRIPTION: item.get("description") or None}
        fields.update((("tags", k), v) for k, v in tags.items())
        paired = self.pair(wanted, found)
        # Versions that no document declares are nobody's business: their tags must not look like ours.
        keys = set(paired) if complete else {p[1] for p in wanted if p[0] == VERSIONS} & set(paired)
        for name in keys:
            fields.update(self._version_fields(name, paired[name]))
        numbers = {name: str(version["version"]) for name, version in paired.items()}
        # The wanted keys first: a version may have one by its content, and another one by its number.
        key_of = {number: name for name, number in numbers.items() if name not in keys}
        key_of.update({numbers[name]: name for name in keys})
        for alias in item.get("aliases") or ():
            path, number = (ALIASES, alias["alias"]), str(alias["version"])
            by_key = str(wanted.get(path, BY_KEY if complete else "")).startswith(BY_KEY)
            known = by_key and number in key_of
            fields[path] = BY_KEY + key_of[number] if known else BY_NUMBER + number
        handle = {"mark": mark, "numbers": {name: numbers[name] for name in sorted(keys)}}
        return Observed(key, fields, Mark.from_text(mark), handle=handle)

    def _version_fields(self, name: str, version: Json) -> dict[Path, Value]:
        tags = tag_map(version.get("tags"))
        fields: dict[Path, Value] = {(VERSIONS, name, k): v for k, v in self.content(version, tags).items()}
        fields[(VERSIONS, name, self.version_text)] = version.get("description") or None
        fields[(VERSIONS, name, "key")] = tags.get(KEY_TAG) or default_key(version)
        fields.update(((VERSIONS, name, "tags", k), v) for k, v in tags.items())
        return fields

    def execute(self, api: Api, change: Change, secrets: Mapping[Path, str], header: str | None) -> None:
        call = _Calls(api, header, change.key.name)
        if change.action is Action.DELETE:
            call.remove("DELETE", _MODELS + "delete")
        elif change.action is Action.FORGET:
            call.remove("DELETE", _MODELS + "delete-tag", key=MARK_TAG)
        elif change.action is Action.CREATE:
            access.refuse(self.review(change, secrets))
            fresh = self._create(call, change)
            self._converge_versions(call, change, fresh=fresh)
        else:
            self._converge(call, change)
            self._converge_versions(call, change, fresh=False)

    def _create(self, call: _Calls, change: Change) -> bool:
        """Whether the object is new: not where an earlier request of ours, or another apply of this owner,
        had made it already."""
        tags = {**self.object_tags(), **new_tags(change.fields)}
        if change.mark:
            tags[MARK_TAG] = change.mark.to_text()
        body: Json = {"tags": tag_list(tags)}
        if change.new(*DESCRIPTION) is not None:
            body["description"] = change.new(*DESCRIPTION)
        try:
            call.send("POST", _MODELS + "create", **body)
        except Rejected as error:
            if error.code != access.ALREADY_EXISTS:
                raise
            found = call.get(_MODELS + "get", name=change.key.name)["registered_model"]
            check_created(error, change, tag_map(found.get("tags")))
            return False
        return True

    def object_tags(self) -> dict[str, str]:
        """Tags that every object of the kind has."""
        return {}

    def _converge(self, call: _Calls, change: Change) -> None:
        """Bring the object itself to its document; see `stale_mark` for the order."""
        for key in gone_tags(change.fields):
            call.remove("DELETE", _MODELS + "delete-tag", key=key)
        for field in change.fields:
            if field.new is None and field.path[0] == ALIASES:
                call.remove("DELETE", _MODELS + "alias", alias=field.path[1])
            elif field.new is None and field.path == DESCRIPTION:
                call.send("PATCH", _MODELS + "update", description="")
            elif field.new is None and field.path[0] == VERSIONS:
                self._remove_from_version(call, change, field)
        mark = stale_mark(change)
        if mark is not None:
            call.send("POST", _MODELS + "set-tag", key=MARK_TAG, value=mark)
        if change.new(*DESCRIPTION) is not None:
            call.send("PATCH", _MODELS + "update", description=change.new(*DESCRIPTION))
        for key, value in new_tags(change.fields).items():
            call.send("POST", _MODELS + "set-tag", key=key, value=value)

    def _remove_from_version(self, call: _Calls, change: Change, field: FieldChange) -> None:
        number = change.handle["numbers"][field.path[1]]
        if field.path[2] == "tags":
            call.remove("DELETE", _VERSIONS + "delete-tag", version=number, key=field.path[3])
        elif field.path[2] == self.version_text:
            call.send("PATCH", _VERSIONS + "update", version=number, description="")

    def _converge_versions(self, call: _Calls, change: Change, *, fresh: bool) -> None:
        """Make the versions that are missing, correct the others, then point the aliases at them.

        `fresh`: the object was made by this change, so that it can have no version yet.
        """
        numbers: dict[str, str] = dict(change.handle.get("numbers") or {})
        changed: dict[str, dict[Path, Value]] = {}
        for field in change.fields:
            if field.path[0] == VERSIONS and field.new is not None:
                changed.setdefault(field.path[1], {})[field.path[2:]] = field.new
        missing = [key for key in changed if key not in numbers]
        last = 0
        if missing and not fresh:
            # An earlier request may have arrived after all.
            wanted = {f.path: f.new for f in change.fields}
            there = call.versions(prompts=self.prompts)
            now = self.pair(wanted, there)
            numbers.update({key: str(now[key]["version"]) for key in missing if key in now})
            last = max(map(_number, there), default=0)
        for key, fields in changed.items():
            if key in numbers:
                self._correct_version(call, numbers[key], fields)
                continue
            made = self._make_version(call, key, fields)
            numbers[key] = str(made)
            if made != last + 1:
                numbers.update(self._settle(call, key, made))
            last = made
        for field in change.fields:
            if field.path[0] == ALIASES and field.new is not None:
                target = str(field.new)
                number = numbers[target.removeprefix(BY_KEY)] if target.startswith(BY_KEY) else target
                number = number.removeprefix(BY_NUMBER)
                call.send("POST", _MODELS + "alias", alias=field.path[1], version=number)

    def _make_version(self, call: _Calls, key: str, fields: Mapping[Path, Value]) -> int:
        body = self.creation({p[0]: v for p, v in fields.items() if len(p) == 1})
        tags = {**body.pop("tags", {}), **{p[1]: str(v) for p, v in fields.items() if p[0] == "tags"}}
        body["tags"] = tag_list({**tags, KEY_TAG: key})
        if (self.version_text,) in fields:
            body["description"] = fields[(self.version_text,)]
        # Not repeated when its answer is lost: MLflow would make another version.
        answer = call.send("POST", _VERSIONS + "create", idempotent=False, **body)
        return int(answer["model_version"]["version"])

    def _settle(self, call: _Calls, key: str, made: int) -> dict[str, str]:
        """Key -> number, after a version was made beside versions of somebody else: of two with one key the
        earlier one stays, whoever made it, and the one made here is removed if it is not that."""
        first: dict[str, str] = {}
        for version in sorted(call.versions(prompts=self.prompts), key=_number):
            if bears := tag_map(version.get("tags")).get(KEY_TAG):
                first.setdefault(bears, str(version["version"]))
        if first.get(key, str(made)) != str(made):
            call.remove("DELETE", _VERSIONS + "delete", version=str(made))
        return first

    def _correct_version(self, call: _Calls, number: str, fields: Mapping[Path, Value]) -> None:
        for path, value in fields.items():
            if path == (self.version_text,):
                call.send("PATCH", _VERSIONS + "update", version=number, description=value)
            elif path == ("key",):
                call.send("POST", _VERSIONS + "set-tag", version=number, key=KEY_TAG, value=value)
            elif path[0] == "tags":
                call.send("POST", _VERSIONS + "set-tag", version=number, key=path[1], value=value)


def default_key(version: Json) -> str:
    """The key of a version that bears none."""
    return f"v{version['version']}"


def _number(version: Json) -> int:
    return int(version["version"])


def _needs_versions(fields: Fields) -> bool:
    return any(p[0] == VERSIONS or (p[0] == ALIASES and str(v).startswith(BY_KEY)) for p, v in fields.items())


class _Calls:
    """MLflow's calls on one registered model or prompt."""

    def __init__(self, api: Api, header: str | None, name: str) -> None:
        self._api = api
        self._header = header
        self._name = name

    def send(self, method: str, path: str, *, idempotent: bool = True, **body: object) -> Json:
        body = {"name": self._name, **body}
        return self._api.call(method, path, json=body, workspace=self._header, idempotent=idempotent)

    def remove(self, method: str, path: str, **body: object) -> None:
        access.remove(self._api, method, path, {"name": self._name, **body}, self._header)

    def get(self, path: str, **params: str) -> Json:
        return self._api.call("GET", path, params=params, workspace=self._header)

    def versions(self, *, prompts: bool) -> list[Json]:
        """All versions of this one."""
        snapshot = Snapshot(self._api, (self._header or "default",), workspaces_on=self._header is not None)
        return versions(snapshot, snapshot.workspaces[0], prompts=prompts, name=self._name).get(
            self._name, []
        )
