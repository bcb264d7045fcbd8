"""Names of documents made from names on the server."""

from __future__ import annotations

import hashlib
import re

#: Of the 253 characters of an RFC 1123 subdomain, leave room for the hash.
_LONGEST = 240


def resource_name(*parts: str) -> str:
    """A `metadata.name` for the object that `parts` name: the name itself where Kubernetes allows it,
    else what is left of it and a hash, so that two objects never share one."""
    name = ".".join(parts)
    label = re.sub(r"[^a-z0-9.]+", "-", name.lower())[:_LONGEST]
    labels = [part.strip("-") for part in label.split(".")]
    plain = ".".join(part for part in labels if part)
    if plain == name and len(parts) == 1:
        return name
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
    return f"{plain}-{digest}" if plain else digest
