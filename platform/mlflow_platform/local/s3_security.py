"""Closes SeaweedFS' inner ports to the other users of the machine.

S3 itself asks for keys, but behind it master, volume server and filer listen on ports of their own and
by default serve anybody, S3's keys included. Here their gRPC asks for a certificate and their HTTP for
a signed token (`weed scaffold -config=security`). Both are made anew at every start, for one process.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import secrets
from pathlib import Path

from mlflow_platform.local.folder import write_private

#: Where `weed` looks for it: its working directory.
FILE = "security.toml"
_COMPONENTS = (
    "master",
    "volume",
    "filer",
    "s3",
    "admin",
    "worker",
    "client",
    "mq",
    "msg_broker",
    "msg_agent",
)
_TOKENS = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
#: A stack may run for long, and a certificate that expires would stop it.
_VALID = datetime.timedelta(days=3650)


def write(directory: Path) -> None:
    """Write `security.toml` and the certificates it names into a directory, mode 0600."""
    authority, certificate, key = _certificates()
    paths = {name: directory / name for name in ("ca.crt", "node.crt", "node.key")}
    for name, text in zip(paths, (authority, certificate, key), strict=True):
        write_private(paths[name], text)
    # JSON's strings are TOML's.
    quoted = {name: json.dumps(str(path)) for name, path in paths.items()}
    lines = [f'[{name}]\nkey = "{secrets.token_hex(32)}"' for name in _TOKENS]
    lines.append(f"[grpc]\nca = {quoted['ca.crt']}")
    lines += [
        f"[grpc.{name}]\ncert = {quoted['node.crt']}\nkey = {quoted['node.key']}" for name in _COMPONENTS
    ]
    write_private(directory / FILE, "\n".join(lines) + "\n")


def _certificates() -> tuple[str, str, str]:
    """PEM: an authority whose key is thrown away, and the one certificate that it signed, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)
    authority_key, node_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def sign(name: str, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> str:
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("mlplatform"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + _VALID)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .sign(authority_key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
            .decode()
        )

    def _name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    pem = node_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return (
        sign("mlplatform", authority_key, authority=True),
        sign("node", node_key, authority=False),
        pem,
    )
