"""Lists what is in the platform's image, as CycloneDX 1.6 (JSON) on standard output: `make sbom`.

    python platform/sbom.py [ARCHIVE]

Python's packages come from the lock that the image is installed from, with its hashes, and their licences
from the metadata of the same versions installed here. ARCHIVE is the image itself, saved by `docker save`
or `buildah push ... docker-archive:`: then Debian's packages are listed too. The same input gives the same
bytes: there is no time and no random number in it.
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
from collections.abc import Iterator, Mapping
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

HERE = Path(__file__).parent
LOCK = HERE / "requirements-server.txt"
#: Where dpkg keeps what is installed; images without dpkg have one file a package.
DPKG = re.compile(r"^(\./)?var/lib/dpkg/status(\.d/[^/]+)?$")
OS_RELEASE = re.compile(r"^(\./)?usr/lib/os-release$")
Json = dict[str, Any]


class Unusable(Exception):
    """The lock, the environment or the archive is not what it should be; the message says what to do."""


def bom(archive: Path | None = None) -> Json:
    """The whole document."""
    name, version = "mlflow-platform", image_version()
    components = [*python_packages()]
    if archive:
        components += debian_packages(archive)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": f"{name}:{version}",
                "name": name,
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
    }


def image_version() -> str:
    """The image's tag: MLflow's version."""
    return next(version for name, version, _ in locked() if name == "mlflow")


def locked() -> Iterator[tuple[str, str, list[str]]]:
    """Name, version and SHA-256 digests of each package of the lock, in its order."""
    text = LOCK.read_text("utf-8").replace("\\\n", " ")
    for line in filter(None, (part.strip() for part in text.splitlines())):
        found = re.fullmatch(
            r"([\w.-]+)(?:\[[\w,.-]+\])?==([^\s;]+)(?:\s*;[^-]*)?((?:\s+--hash=sha256:[0-9a-f]{64})+)", line
        )
        if not found:
            raise Unusable(f"{LOCK}: {line[:80]!r} is no package with hashes; make lock writes it anew")
        yield found[1], found[2], sorted(re.findall(r"[0-9a-f]{64}", found[3]))


def python_packages() -> Iterator[Json]:
    for name, version, digests in locked():
        try:
            about = cast(Message, metadata.metadata(name))
        except metadata.PackageNotFoundError:
            raise Unusable(
                f"{name} is not installed here, so its licence is unknown; make lint installs it"
            ) from None
        if about["Version"] != version:
            raise Unusable(
                f"{name} {about['Version']} is installed, the lock has {version}; make lint installs it"
            )
        said = licences(about)
        purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{quote(version)}"
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "hashes": [{"alg": "SHA-256", "content": digest} for digest in digests],
            "purl": purl,
            **({"licenses": said} if said else {}),
        }


def licences(about: Message) -> list[Json]:
    """What a package says of its licence: an SPDX expression (PEP 639), classifiers, or words."""
    if expression := about.get("License-Expression"):
        return [{"expression": expression}]
    names = [
        classifier.rsplit(" :: ", 1)[-1]
        for classifier in about.get_all("Classifier") or ()
        if classifier.startswith("License ::") and classifier != "License :: OSI Approved"
    ]
    if not names and (words := (about.get("License") or "").strip()):
        names = [words.splitlines()[0]]
    return [{"license": {"name": name}} for name in names]


def debian_packages(archive: Path) -> list[Json]:
    """Debian's packages of an image; the uppermost layer that has dpkg's list counts."""
    files = layered(archive)
    status = "\n\n".join(text for name, text in sorted(files.items()) if DPKG.match(name))
    if not status:
        raise Unusable(f"{archive}: no layer has Debian's list of packages, var/lib/dpkg/status")
    release = dict(
        re.findall(
            r'^(\w+)="?([^"\n]*)"?$', "".join(t for n, t in files.items() if OS_RELEASE.match(n)), re.M
        )
    )
    distro = f"{release.get('ID', 'debian')}-{release.get('VERSION_ID', 'unknown')}"
    packages = []
    for paragraph in re.split(r"\n\n+", status):
        fields = dict(re.findall(r"^([\w-]+): (.*)$", paragraph, re.M))
        # Removed packages whose configuration is left stand in the list as well.
        if not fields.get("Status", "install ok installed").endswith(" installed") or "Package" not in fields:
            continue
        name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}&distro={distro}"
        packages.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return sorted(packages, key=lambda package: str(package["purl"]))


def layered(archive: Path) -> Mapping[str, str]:
    """The small files of an image that matter here, each from the uppermost layer that has it."""
    found: dict[str, str] = {}
    try:
        with tarfile.open(archive) as image:
            (described,) = json.loads(content(image, "manifest.json"))
            for name in described["Layers"]:
                with tarfile.open(fileobj=image.extractfile(name)) as layer:
                    for member in layer:
                        if member.isfile() and (DPKG.match(member.name) or OS_RELEASE.match(member.name)):
                            found[member.name.removeprefix("./")] = content(layer, member).decode()
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise Unusable(
            f"{archive}: not an image saved by docker or buildah: {str(error).splitlines()[0]}"
        ) from error
    return found


def content(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    """A file of an archive; `KeyError` if it has none of that name."""
    stream = archive.extractfile(member)
    if stream is None:
        raise KeyError(f"{member} is no file")
    return stream.read()


def main(arguments: list[str]) -> int:
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        print(__doc__, file=sys.stderr)
        return 64
    try:
        print(json.dumps(bom(Path(arguments[0]) if arguments else None), indent=1, ensure_ascii=False))
    except Unusable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
