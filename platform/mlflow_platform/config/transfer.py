"""Documents to YAML: what `import` and `export` write."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Json = Mapping[str, Any]


class _Dumper(yaml.SafeDumper):
    """Block style; texts of several lines as literal blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
# YAML 1.1's short booleans, which PyYAML leaves unquoted and other readers take for true and false.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^[yYnN]$"), list("yYnN"))


def as_yaml(documents: Iterable[Json]) -> str:
    """The documents as one YAML stream, fields in the order given."""
    return yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, explicit_start=True, width=100
    )


def write(documents: Sequence[Json], folder: Path, project: str) -> dict[str, int]:
    """Write one file a kind and mlplatform.toml; the number of documents by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mlplatform.toml").write_text(f'project = "{project}"\n', "utf-8")
    counts = Counter(d["kind"] for d in documents)
    for kind in counts:
        text = as_yaml(d for d in documents if d["kind"] == kind)
        (folder / f"{kind.lower()}s.yaml").write_text(text, "utf-8")
    return dict(counts)
