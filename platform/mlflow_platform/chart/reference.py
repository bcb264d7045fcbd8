"""The reference page of the chart's values, made from `values.schema.json` and `values.yaml`.

python -m mlflow_platform.chart.reference     writes docs/reference/values.md of the source tree
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_platform.chart.render import Chart, find_chart

HEAD = """# Values of the chart

Written from `charts/mlflow-platform/values.schema.json`; the defaults are those without a profile.
Give values in a file (`-f`) or one by one (`--set server.replicas=3`). An unknown name is an error.
"""


def page(chart: Chart) -> str:
    """The page as Markdown: one table a top-level value."""
    parts = [HEAD]
    values = chart.values().data
    for name, schema in chart.schema["properties"].items():
        parts.append(f"\n## {name}\n\n{schema['description']}\n")
        rows = list(_rows(schema, values.get(name), name))
        if rows:
            parts.append("\n| value | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return "".join(parts)


def _rows(schema: Mapping[str, Any], default: Any, path: str) -> Iterator[str]:
    for name, child in schema.get("properties", {}).items():
        value = default.get(name) if isinstance(default, Mapping) else None
        if "properties" in child:
            yield from _rows(child, value, f"{path}.{name}")
            continue
        shown = "" if value is None else f"`{json.dumps(value)}`"
        meaning = str(child["description"]).replace("|", "\\|")
        if "enum" in child:
            meaning += f" One of {', '.join(f'`{e}`' for e in child['enum'])}."
        yield f"| `{path}.{name}` | {shown} | {meaning} |"


if __name__ == "__main__":
    found = find_chart()
    target = found.folder.parent.parent / "docs" / "reference" / "values.md"
    target.write_text(page(found), encoding="utf-8")
