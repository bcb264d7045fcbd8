"""The root command, its lazily imported subcommands, and errors turned into exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from mlflow_platform import __version__
from mlflow_platform.errors import EXIT_ERROR, EXIT_USAGE, PlatformError

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
    "completion": ("completion", "Print the shell completion script for bash, zsh or fish."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"mlflow_platform.cli.{COMMANDS[cmd_name][0]}")
        found: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
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
        click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
        return error.exit_code
    except click.UsageError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        error.show()
        return EXIT_ERROR
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    return code if isinstance(code, int) else 0
