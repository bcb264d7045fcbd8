"""The list of the image's packages: complete, with versions and hashes, and the same at every run."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "platform/requirements-server.txt").read_text("utf-8")


def sbom(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "platform/sbom.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    done = sbom()
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_package_of_the_lock_is_there_with_version_purl_and_hashes(document: dict[str, Any]) -> None:
    listed = {c["name"]: c for c in document["components"]}
    # Read in another way than the program does: package by package, between one name and the next.
    parts = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(parts) == len(listed) == LOCK.count("==") > 80
    for part in parts:
        name, version = part.split()[0].split("==")
        component = listed[name]
        assert component["version"] == version
        assert component["purl"] == f"pkg:pypi/{name}@{version}"
        assert {h["content"] for h in component["hashes"]} == set(re.findall(r"sha256:(\w+)", part))


def test_what_packages_say_of_their_licences_is_kept(document: dict[str, Any]) -> None:
    listed = {c["name"]: c.get("licenses") for c in document["components"]}
    assert listed["mlflow"] == [{"license": {"name": "Apache Software License"}}]
    assert listed["pydantic"] == [{"expression": "MIT"}]
    assert [name for name, said in listed.items() if not said] == ["huey", "skops"]  # say none


def test_the_same_input_gives_the_same_bytes(document: dict[str, Any]) -> None:
    again = sbom().stdout
    assert json.loads(again) == document
    assert again == sbom().stdout
    assert not {"serialNumber", "timestamp"} & {*document, *document["metadata"]}


def layer(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def saved(path: Path, *layers: bytes) -> Path:
    """An image as `docker save` writes it."""
    names = [f"{i}.tar" for i, _ in enumerate(layers)]
    manifest = json.dumps([{"Config": "c.json", "RepoTags": ["i:1"], "Layers": names}]).encode()
    with tarfile.open(path, "w") as archive:
        for name, content in (("manifest.json", manifest), *zip(names, layers, strict=True)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def package(name: str, version: str, status: str = "install ok installed") -> str:
    return (
        f"Package: {name}\nStatus: {status}\nVersion: {version}\nArchitecture: amd64\nDescription: x\n y\n\n"
    )


def test_debian_packages_come_from_the_uppermost_layer(tmp_path: Path) -> None:
    status, release = "var/lib/dpkg/status", "./usr/lib/os-release"
    image = saved(
        tmp_path / "image.tar",
        layer(**{status: package("old", "1"), release: 'ID=debian\nVERSION_ID="13"\n'}),
        layer(**{status: package("libc6", "1:2.41+b1") + package("gone", "1", "deinstall ok config-files")}),
    )
    components = json.loads(sbom(image).stdout)["components"]
    debian = [c["purl"] for c in components if c["purl"].startswith("pkg:deb/")]
    assert debian == ["pkg:deb/debian/libc6@1%3A2.41%2Bb1?arch=amd64&distro=debian-13"]
    assert len(components) == LOCK.count("==") + 1


def test_a_file_that_is_no_image_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "text", tmp_path / "absent", saved(tmp_path / "empty.tar", layer())):
        done = sbom(path)
        assert done.returncode == 1
        assert done.stdout == ""
        assert re.fullmatch(rf"error: {re.escape(str(path))}: .+\n", done.stderr)
