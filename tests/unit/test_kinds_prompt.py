"""Prompt without a server: which version a key means, and texts in and out."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.kinds.prompt import CHAT, TEXT, TEXT_TAG, TYPE_TAG, Prompt
from mlflow_platform.kinds.versioned import KEY_TAG
from mlflow_platform.model import DOCUMENTS
from mlflow_platform.plan.objects import Desired

KIND = Prompt()
MESSAGES = [{"role": "system", "content": "Be kind, ñ."}, {"role": "user", "content": "{{ q }}"}]


def desired(*versions: dict[str, Any], **spec: Any) -> Desired:
    document = {
        "apiVersion": "mlplatform.io/v1alpha1",
        "kind": "Prompt",
        "metadata": {"name": "doc"},
        "spec": {"versions": list(versions), **spec},
    }
    (found,) = KIND.desired(DOCUMENTS["Prompt"].model_validate(document))
    return found


def version(number: int, text: str, key: str = "", kind: str = TEXT) -> dict[str, Any]:
    tags = {TEXT_TAG: text, TYPE_TAG: kind, **({KEY_TAG: key} if key else {})}
    return {"version": str(number), "tags": [{"key": k, "value": v} for k, v in tags.items()]}


def pairs(wanted: dict[str, str], *found: dict[str, Any]) -> dict[str, str]:
    fields = desired(*({"key": k, "template": t} for k, t in wanted.items())).fields
    return {key: v["version"] for key, v in KIND.pair(fields, found).items()}


def test_a_version_is_its_content() -> None:
    assert pairs({"a": "A"}, version(1, "A")) == {"a": "1"}
    assert pairs({"a": "A"}, version(1, "A", "other")) == {"a": "1"}, "it gets another key"
    assert pairs({"a": "B"}, version(1, "A")) == {"v1": "1"}
    assert pairs({"a": "A"}, version(1, "A"), version(2, "A")) == {"a": "1", "v2": "2"}
    assert pairs({"v2": "A"}, version(1, "A"), version(2, "A")) == {"v1": "1", "v2": "2"}


def test_a_key_that_was_given_comes_before_content() -> None:
    found = version(1, "A", "a"), version(2, "B")
    assert pairs({"a": "B"}, *found) == {"a": "1", "v2": "2"}, "its text cannot change: a problem"
    assert pairs({"a": "A", "b": "B"}, *found) == {"a": "1", "b": "2"}


def test_two_keys_that_changed_places() -> None:
    assert pairs({"v1": "B", "v2": "A"}, version(1, "A"), version(2, "B")) == {"v1": "2", "v2": "1"}


@given(
    st.lists(st.sampled_from("ABCD"), max_size=6),
    st.dictionaries(st.sampled_from(["a", "b", "v1", "v2", "v3"]), st.sampled_from("ABCDE"), max_size=4),
    st.lists(st.sampled_from(["", "", "a", "b", "c"]), min_size=6, max_size=6),
)
def test_no_text_is_ever_made_twice(texts: list[str], wanted: dict[str, str], keys: list[str]) -> None:
    if len(set(wanted.values())) < len(wanted):
        return  # refused in a document
    found = [version(i + 1, text, keys[i]) for i, text in enumerate(texts)]
    fields = desired(*({"key": k, "template": t} for k, t in wanted.items())).fields
    paired = KIND.pair(fields, found)
    numbers = [v["version"] for k, v in paired.items() if k in wanted]
    assert len(numbers) == len(set(numbers)), "no version answers to two keys"
    for key, text in wanted.items():
        if key not in paired:  # to be made
            elsewhere = {k for k, v in paired.items() if KIND._identity(v)[1] == text}
            assert elsewhere <= set(wanted), "a version with that text was free"
            assert text not in texts or elsewhere


def test_chats_are_compared_as_messages() -> None:
    want = desired({"key": "a", "messages": MESSAGES})
    stored = json.dumps([{"content": m["content"], "role": m["role"]} for m in MESSAGES], indent=1)
    content = KIND.content({}, {TEXT_TAG: stored, TYPE_TAG: CHAT})
    assert want.fields["versions", "a", "template"] == content["template"]
    assert want.fields["versions", "a", "type"] == content["type"] == CHAT
    assert KIND.version_document(content) == {"messages": MESSAGES}


def test_a_text_that_looks_like_a_chat_is_a_text() -> None:
    text = json.dumps(MESSAGES)
    want = desired({"key": "a", "template": text}, {"key": "b", "messages": MESSAGES})
    assert want.fields["versions", "a", "type"] != want.fields["versions", "b", "type"]
    assert KIND.version_document(KIND.content({}, {TEXT_TAG: text})) == {"template": text}


def test_what_no_document_can_declare_is_not_imported() -> None:
    parts = [{"role": "user", "content": [{"type": "image_url"}]}]
    for text in (json.dumps(parts), "[]", "{not json", '"text"', "[1]"):
        content = KIND.content({}, {TEXT_TAG: text, TYPE_TAG: CHAT})
        assert KIND.version_document(content) is None
    assert KIND.version_document(KIND.content({}, {})) is None


def test_settings_that_no_document_has_are_mlflows() -> None:
    from mlflow.prompt.constants import PROMPT_MODEL_CONFIG_TAG_KEY, RESPONSE_FORMAT_TAG_KEY

    tags = {("tags", RESPONSE_FORMAT_TAG_KEY): "{}", ("tags", PROMPT_MODEL_CONFIG_TAG_KEY): "{}"}
    assert KIND.lost_settings(tags) == ["the response format", "the model configuration"]
    assert KIND.lost_settings({("tags", "mine"): "{}"}) == []
