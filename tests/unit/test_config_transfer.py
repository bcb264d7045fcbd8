"""What `import` and `export` write is read back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.config.composer import Places, build, compose
from mlflow_platform.config.loading import load
from mlflow_platform.config.transfer import as_yaml, write

#: Texts that some reader takes for something else, any other text that Postgres can store.
TEXTS = st.text("0123456789+-.:_eExobtTzZyYnNf~# \n", max_size=10) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20
)


@given(st.dictionaries(TEXTS, TEXTS, max_size=5))
def test_texts_survive(texts: dict[str, str]) -> None:
    text = as_yaml([{"tags": texts}])
    (composed,) = compose(text)
    assert build(composed.node, Places("f")) == ({"tags": texts}, [])
    assert list(yaml.safe_load_all(text)) == [{"tags": texts}]


def test_a_folder_that_is_written_is_a_configuration(tmp_path: Path) -> None:
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": "mlplatform.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": "a"},
            "spec": {"description": "two\nlines: {{ x }}", "tags": {"n": "1e3", "y": "no"}},
        }
        for kind in ("Experiment", "RegisteredModel")
    ]
    assert write(documents, tmp_path, "search") == {"Experiment": 1, "RegisteredModel": 1}
    found = load([tmp_path])
    assert (found.project, found.whole) == ("search", True)
    read = [one.document.model_dump(exclude_unset=True) for one in found.documents]
    assert read == documents
