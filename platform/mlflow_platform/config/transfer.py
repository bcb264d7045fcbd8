"""Documents to YAML: what `import` and `export` write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mlflow_platform.config.composer import plain

Json = Mapping[str, Any]


class _Dumper(yaml.SafeDumper):
    """Block style; texts of several lines as literal blocks; quotes around all that any YAML reader takes
    for something else than text (PyYAML leaves `y`, `1e3` and `0o17` as they are)."""


#: Line ends to YAML 1.1, which PyYAML writes as such and reads back as spaces or `\\n`, unless escaped.
_ODD_LINE_ENDS = frozenset("\r\x85\u2028\u2029")


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style: str | None
    if not _ODD_LINE_ENDS.isdisjoint(value):
        style = '"'
    elif "\n" in value:
        style = "|"
    else:
        style = None if isinstance(plain(value), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


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
