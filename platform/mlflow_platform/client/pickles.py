"""Models as pickles with their digest: a pickle runs what it likes, so only what was saved is opened."""

from __future__ import annotations

import hashlib
import hmac
import json
import pickle
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow_platform.client.events import as_json
from mlflow_platform.errors import BadInput, Rejected


def save(model: Any, name: str, metadata: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `<name>.pkl` and `<name>_metadata.json`, which has `metadata` and under `pickle` the digest.

    Raises `BadInput` for a name that is a path, and what pickling raises.
    """
    paths = [folder / file for file in files(name)]
    content = pickle.dumps(model, protocol=5)
    described = {
        **metadata,
        "pickle": {
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "python": platform.python_version(),
            "saved": datetime.now(UTC).isoformat(),
        },
    }
    paths[0].write_bytes(content)
    paths[1].write_text(json.dumps(as_json(described), indent=2, default=str) + "\n", "utf-8")
    return paths


def load(path: Path, described: Path, *, sha256: str | None = None) -> tuple[Any, dict[str, Any]]:
    """The model and its metadata, once the pickle's digest is the metadata's, and `sha256` where it is given.

    The metadata lies beside the pickle: it tells that a pickle is damaged or exchanged, not that whoever may
    write to both is honest. For that, keep the digest elsewhere and pass it. Raises `Rejected`.
    """
    content = path.read_bytes()
    try:
        metadata = json.loads(described.read_text("utf-8"))
        expected = metadata["pickle"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Rejected(f"{described.name} has no digest; {path.name} is not opened") from error
    found = hashlib.sha256(content).hexdigest()
    for digest, source in ((expected, described.name), (sha256, "the digest that was asked for")):
        if digest is not None and not hmac.compare_digest(found.encode(), str(digest).lower().encode()):
            raise Rejected(
                f"{path.name} has the SHA-256 {found}, not that of {source}; it is not opened",
                remedy="it is damaged or was exchanged: save the model again",
            )
    return pickle.loads(content), metadata  # noqa: S301 - it is the one that was saved


def files(name: str) -> tuple[str, str]:
    """The names of a model's pickle and metadata. Raises `BadInput` for a name that is a path."""
    if not name or name != Path(name).name or name.startswith("."):
        raise BadInput(
            f"{name!r} is not a model's name", remedy="it becomes a file's: no slashes, no leading dot"
        )
    return f"{name}.pkl", f"{name}_metadata.json"
