"""The list of packages against CycloneDX's own JSON schema, with a validator that is not ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.tools import go

SBOM = Path(__file__).parents[2] / "platform/sbom.py"


def valid(document: Path) -> bool:
    folder = document.with_name("schemas")
    folder.mkdir(exist_ok=True)
    for name in ("bom-1.6.schema.json", "spdx.schema.json"):
        (folder / name).write_text((go.module(*go.CYCLONEDX) / "schema" / name).read_text("utf-8"))
    # That of signatures does not come with it; with `false` for a schema, any signature is refused.
    (folder / "jsf-0.82.schema.json").write_text('{"definitions": {"signature": false}}')
    jv = [go.program("jv"), "--map", f"http://cyclonedx.org/schema={folder}"]
    done = subprocess.run(
        [*jv, folder / "bom-1.6.schema.json", document], capture_output=True, text=True, check=False
    )
    assert f"schema {folder / 'bom-1.6.schema.json'}: ok" in done.stdout, done.stdout + done.stderr
    return done.returncode == 0


def test_the_sbom_is_cyclonedx(tmp_path: Path) -> None:
    written = subprocess.run([sys.executable, SBOM], capture_output=True, check=True).stdout
    document = tmp_path / "sbom.json"
    document.write_bytes(written)
    assert valid(document)
    broken = json.loads(written)
    broken["components"][0]["type"] = "thing"
    document.write_text(json.dumps(broken))
    assert not valid(document)
