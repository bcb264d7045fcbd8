"""The root command, its lazily imported subcommands, and errors turned into exit codes."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

import mlflow_platform
from mlflow_platform import __version__
from mlflow_platform.errors import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    BadInput,
    BrakeStopped,
    PlatformError,
    Problem,
)

#: Command -> (module of `mlflow_platform.cli`, one-line help). A module is imported when its command runs;
#: its click command is the attribute named after the command with `-` as `_`, `_command` after it.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("local", "Start the local stack: Postgres, S3 and MLflow with auth; then apply documents."),
    "down": ("local", "Stop the local stack; its data stays."),
    "status": ("local", "Show the local stack's processes, ports and health."),
    "logs": ("local", "Print or follow the local stack's logs."),
    "env": ("local", "Print `export` lines that point any MLflow client at the local stack."),
    "reset": ("local", "Stop the local stack and delete its data, after asking."),
    "doctor": ("doctor", "Check server, database, bucket, disk and credentials; name fault and remedy."),
    "init": ("documents", "Write starter documents into a folder."),
    "validate": ("documents", "Check documents; report every mistake with file, line and column."),
    "explain": ("documents", "Show the fields of a kind with their descriptions."),
    "schema": ("documents", "Print JSON Schema for editors."),
    "plan": ("govern", "Show what apply would do. Exit 0: nothing, 2: changes, 1: error."),
    "apply": ("govern", "Bring a tracking server to the state the documents declare."),
    "drift": ("govern", "Show where the server differs from the documents."),
    "import": ("transfer", "Write an existing server as documents whose plan is empty."),
    "export": ("transfer", "Print the owned objects as documents, as the server has them."),
    "render": ("chart", "Print the Kubernetes objects that a deployment consists of."),
    "deploy": ("deploy", "Bring MLflow, its database and store to a Kubernetes cluster; test it."),
    "undeploy": ("deploy", "Take a deployment away; its data stay unless told otherwise."),
    "rotate": ("rotate", "Change a deployment's passwords and keys while it serves."),
    "dumps": ("dumps", "List the dumps made before migrations of a deployment, or bring one back."),
    "sync": ("spool", "Deliver what the durable client's programs have logged and not delivered."),
    "spool": ("spool", "Show, export and retry what waits in the durable client's spools."),
    "runs": ("runs", "List, search, compare, export and draw what was logged."),
    "traces": ("traces", "Search and export traces."),
    "gates": ("gates", "Check a run against declared targets; move an alias when all are met."),
    "archive": ("archive", "Archive runs as Parquet and objects: create, list, verify, restore."),
    "retention": ("retention", "Delete old runs, traces and models by policy: plan, run, status, undo."),
    "backup": ("backup", "Back a platform up, prove that, and bring it back: create, list, restore ..."),
    "migrate": ("migrate", "Move a server of SQLite, a file store or a remote server into the platform."),
    "operator": ("operator", "Keep the documents of a cluster true on their tracking servers."),
    "get": ("get", "Show the documents of a cluster, whether each is as declared, and why not."),
    "completion": ("completion", "Print the shell completion script for bash, zsh or fish."),
}


#: What to know after Ctrl-C, by command.
_AFTER_A_STOP = {
    "apply": ": what was written stays, and the next apply finishes what is left",
    "backup": ": what was copied stays, and the same command goes on from there",
    "migrate": ": what was copied stays, no row is seen yet, and the same command goes on from there",
    "retention": ": what was purged stays so, and the next run finishes what is left",
    "up": ": what was started and written stays, and the next up finishes what is left",
    "rotate": ": both the previous and the next are valid; the same command again finishes it",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"mlflow_platform.cli.{COMMANDS[cmd_name][0]}")
        found: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest command for one that there is not."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from mlflow_platform.model.nearest import suggestion

            ctx.fail(f"there is no command {name!r}: {suggestion(name, COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlplatform", message="%(prog)s %(version)s")
def root() -> None:
    """Run MLflow for a whole organisation: deploy it, govern it from YAML, log to it without fear.

    \b
    Examples:
      mlplatform up manifests/examples     a governed MLflow on this machine
      mlplatform plan manifests/examples   what would change
      mlplatform apply manifests/examples  make it so
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit code. Mistakes of the user get a message, never a traceback."""
    try:
        code = root.main(list(arguments), prog_name="mlplatform", standalone_mode=False)
    except PlatformError as error:
        return _failed(error, arguments)
    except click.UsageError as error:
        error.show()
        if _wants_json(arguments):
            from mlflow_platform.cli.output import print_error

            print_error("UsageError", EXIT_USAGE, [Problem(error.format_message())])
        return EXIT_USAGE
    except click.ClickException as error:
        error.show()
        return EXIT_ERROR
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"stopped{_AFTER_A_STOP.get(next(iter(arguments), ''), '')}", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_ERROR
    except OSError as error:
        from mlflow_platform.cli.output import unusable

        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
            _drop_output()
            return _failed(BadInput("no space left to write to", remedy="make room on the disk"), ())
        named = _named(error, arguments)
        if named is None:
            raise
        return _failed(unusable(named, error), arguments)
    return code if isinstance(code, int) else 0


def _drop_output() -> None:
    """What is still to be written would fail again at the end of the process."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def _failed(error: PlatformError, arguments: Sequence[str]) -> int:
    """Tell of an error: as text on standard error, and as JSON on standard output where that was asked."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
    if _wants_json(arguments):
        from mlflow_platform.cli.output import print_error

        plan = {"hash": error.hash} if isinstance(error, BrakeStopped) else {}
        print_error(type(error).__name__, error.exit_code, error.problems, **plan)
    return error.exit_code


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether `--json` is among the options, which end at `--`."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _named(error: OSError, arguments: Sequence[str]) -> str | None:
    """The argument whose path the system refused: that very path, one above it or one within it. None where
    the error is about something that nobody named or about the program's own files: that is a fault of the
    program, whose traceback is needed."""
    if not isinstance(error.filename, str):
        return None
    refused = Path(error.filename).absolute()
    if refused.is_relative_to(Path(mlflow_platform.__file__).parent):
        return None
    for argument in arguments[1:]:
        value = argument.partition("=")[2] if argument.startswith("--") else argument
        if not value or value.startswith("-") or "\0" in value:
            continue
        path = Path(value).absolute()
        if refused.is_relative_to(path) or path.is_relative_to(refused):
            return value
    return None
