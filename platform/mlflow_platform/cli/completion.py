"""Shell completion scripts."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from mlflow_platform.cli.root import root


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      eval "$(mlplatform completion bash)"
      mlplatform completion fish > ~/.config/fish/completions/mlplatform.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(found(root, {}, "mlplatform", "_MLPLATFORM_COMPLETE").source())
