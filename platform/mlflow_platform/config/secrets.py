"""Where the command line finds the secrets that documents refer to by name and key."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from mlflow_platform.errors import BadInput

_ENV = "env:"
#: Kubernetes' limit for a whole Secret (MaxSecretSize in k8s.io/api/core/v1): no value is longer.
MAX_SECRET = 1 << 20


class SecretSource:
    """The folder of `--secrets DIR` or the variables of `--secrets env:PREFIX`; nothing for None.

    Values are read when asked for, never kept and never shown.
    """

    def __init__(
        self,
        setting: str | None,
        environment: Mapping[str, str],
        note: Callable[[str], None] | None = None,
    ) -> None:
        """`note` is called once with each warning, such as that of a file that everybody may read.

        Raises `BadInput` for a folder that is not there and a prefix that no variable can have."""
        self.setting = setting
        self._note = note
        self._noted: set[Path] = set()
        self._environment = environment
        if setting is None:
            return
        if setting.startswith(_ENV):
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", setting.removeprefix(_ENV)):
                what = f"--secrets {setting}: this is no prefix of environment variables"
                raise BadInput(what, remedy="use letters, digits and underscores, as in env:MLFLOW")
        elif not Path(setting).is_dir():
            raise BadInput(
                f"--secrets {setting}: there is no such folder",
                remedy="name a folder with files <name>/<key>, or env:PREFIX for environment variables",
            )

    def __repr__(self) -> str:
        return f"SecretSource({self.setting!r})"

    def resolve(self, name: str, key: str, namespace: str = "default") -> str:
        """The value of the key `key` of the Secret `name`. Raises `BadInput` where there is none.

        The namespace is of use in messages only: the command line has one flat set of secrets.
        """
        what = f"there is no secret {name!r} with the key {key!r} (namespace {namespace})"
        if self.setting is None:
            remedy = "say where secrets are: --secrets DIR (files <name>/<key>) or --secrets env:PREFIX"
            raise BadInput(what, remedy=remedy)
        if self.setting.startswith(_ENV):
            variable = variable_of(self.setting.removeprefix(_ENV), name, key)
            value = self._environment.get(variable)
            if value is None:
                raise BadInput(what, remedy=f"set the environment variable {variable}")
            return value
        return self._read(Path(self.setting), name, key, what)

    def _read(self, folder: Path, name: str, key: str, what: str) -> str:
        path = folder / name / key
        if {name, key} & {".", ".."} or "/" in name + key:
            raise BadInput(f"{what}: it would be outside of {folder}", remedy="correct the name")
        try:
            with path.open("rb") as file:
                data = file.read(MAX_SECRET + 1)
                mode = os.fstat(file.fileno()).st_mode
            text = data.decode()
        except FileNotFoundError:
            raise BadInput(what, remedy=f"write it into the file {path}") from None
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}", remedy="check the file") from None
        except UnicodeDecodeError:
            raise BadInput(f"{path} is not UTF-8 text", remedy="write the secret as text") from None
        if len(data) > MAX_SECRET:
            raise BadInput(f"{path} is larger than a secret can be (1 MiB)", remedy="check the file")
        if mode & stat.S_IROTH and self._note is not None and path not in self._noted:
            self._noted.add(path)
            self._note(f"{path} can be read by every user of this machine; run: chmod 600 {path}")
        return text.removesuffix("\n").removesuffix("\r")


def variable_of(prefix: str, name: str, key: str) -> str:
    """The environment variable of a secret: `PREFIX_<NAME>_<KEY>`, whatever is no letter or digit as `_`."""
    return re.sub(r"[^A-Z0-9_]", "_", f"{prefix.upper()}_{name}_{key}".upper())


def secret_source(setting: str | None, note: Callable[[str], None] | None = None) -> SecretSource:
    """The secrets of the option `--secrets`; the process's environment serves `env:PREFIX`."""
    return SecretSource(setting, os.environ, note)
