"""`validate`, `explain`, `schema` and `init`: commands about documents, which ask no server."""

from __future__ import annotations

import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_platform.cli import output
from mlflow_platform.cli.arguments import PATHS
from mlflow_platform.errors import EXIT_ERROR, EXIT_OK, BadDocuments, BadInput

if TYPE_CHECKING:
    from mlflow_platform.errors import Problem
    from mlflow_platform.model.schema import Schema


@click.command("validate")
@click.argument("paths", nargs=-1, required=True, type=PATHS)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def validate_command(paths: tuple[Path, ...], as_json: bool) -> int:
    """Check documents in folders, files and standard input (-).

    Every mistake of every file is reported at once, with its place and its remedy. No server is asked.
    Exit code 0: all are valid, 1: there are mistakes, 64: a path is not there.

    \b
    Examples:
      mlplatform validate manifests/examples
      mlplatform validate --json config | jq '.problems[].file'
      cat experiment.yaml | mlplatform validate -
    """
    from mlflow_platform.config import load

    try:
        found = load(paths)
    except BadDocuments as error:
        if as_json:
            output.print_json({"valid": False, "problems": [_as_json(p) for p in error.problems]})
        else:
            for problem in error.problems:
                click.echo(str(problem))
            click.echo(output.style(_count(len(error.problems), "mistake"), "red"), err=True)
        return EXIT_ERROR
    kinds = Counter(one.document.kind for one in found.documents)
    if as_json:
        project = {"project": found.project} if found.project else {}
        output.print_json({"valid": True, **project, "documents": kinds, "notes": found.notes})
        return EXIT_OK
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    files = len({one.source.name for one in found.documents})
    where = f" in {_count(files, 'file')} ({listed})" if files else ""
    click.echo(f"{_count(len(found.documents), 'document')}{where}: {output.style('valid', 'green')}")
    return EXIT_OK


def _as_json(problem: Problem) -> dict[str, Any]:
    """One problem with all its keys; what is not known, such as the line of a whole file, is null."""
    place = problem.where
    return {
        "file": place.file if place else None,
        "line": place.line or None if place else None,
        "column": place.column or None if place else None,
        "what": problem.what,
        "remedy": problem.remedy or None,
    }


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@click.command("explain")
@click.argument("field", required=False, metavar="[KIND[.FIELD...]]")
@click.option("--recursive", is_flag=True, help="Show the fields below, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON Schema of the field.")
def explain_command(field: str | None, recursive: bool, as_json: bool) -> None:
    """Show a kind or a field: what it holds, what it means, what is in it.

    Without an argument, list the kinds. A kind may be given as kubectl takes it.

    \b
    Examples:
      mlplatform explain
      mlplatform explain Experiment
      mlplatform explain registeredmodels.spec.aliases
    """
    from mlflow_platform.model import DOCUMENTS
    from mlflow_platform.model.base import API_VERSION

    if field is None:
        if as_json:
            output.print_json({kind: model.__doc__ for kind, model in DOCUMENTS.items()})
            return
        width = max(len(kind) for kind in DOCUMENTS)
        for kind, model in DOCUMENTS.items():
            click.echo(f"{output.style(kind.ljust(width), 'blue')}  {model.__doc__}")
        return
    kind, path, schema = _find(field)
    if as_json:
        output.print_json(schema)
        return
    click.echo(f"KIND:     {output.style(kind, 'blue')}\nVERSION:  {API_VERSION}")
    if path:
        click.echo(f"FIELD:    {output.style('.'.join(path), 'blue')} <{_words(schema)}>")
    click.echo(f"\nDESCRIPTION:\n{_indented(schema['description'], 4)}")
    _print_fields(schema, recursive)


def _find(field: str) -> tuple[str, list[str], Schema]:
    """The kind, the path and the schema that `KIND.a.b` names. Raises `BadInput` with the nearest name."""
    from mlflow_platform.model import DOCUMENTS
    from mlflow_platform.model.nearest import suggestion
    from mlflow_platform.model.schema import fields, inside, kind_schema

    name, *path = field.split(".")
    names = {n.lower(): k for k, m in DOCUMENTS.items() for n in (k, m.plural, *m.short_names)}
    kind = names.get(name.lower())
    if kind is None:
        raise BadInput(f"there is no kind {name!r}", remedy=suggestion(name, DOCUMENTS))
    schema = kind_schema(kind)
    for i, step in enumerate(path):
        within = inside(schema)
        if step not in fields(within):
            here = ".".join([kind, *path[:i]])
            raise BadInput(f"{here} has no field {step!r}", remedy=suggestion(step, fields(within)))
        schema = within["properties"][step]
    return kind, path, schema


def _print_fields(schema: Schema, recursive: bool) -> None:
    from mlflow_platform.model.reference import rows
    from mlflow_platform.model.schema import inside

    within = inside(schema)
    if "properties" not in within:
        return
    click.echo("\nFIELDS:")
    for name, field, required in rows(within, ""):
        depth = name.replace(".<name>", "").count(".") - 1
        if depth and not recursive:
            continue
        label = f"{'  ' * depth}  {output.style(name.rsplit('.', 1)[1], 'blue')} <{_words(field)}>"
        click.echo(label + (output.style(" required", "yellow") if required else ""))
        if not recursive:
            click.echo(_indented(field["description"], 6) + "\n")


def _words(schema: Schema) -> str:
    from mlflow_platform.model.schema import type_words

    default = schema.get("default")
    shown = (
        ""
        if default is None
        else f"; default {str(default).lower() if default in (True, False) else default}"
    )
    return type_words(schema) + shown


def _indented(text: str, by: int) -> str:
    margin = " " * by
    return textwrap.fill(" ".join(text.split()), 100, initial_indent=margin, subsequent_indent=margin)


@click.command("schema")
@click.argument("kind", required=False)
def schema_command(kind: str | None) -> None:
    """Print JSON Schema, of one KIND or of documents of any kind.

    Editors complete and check documents with it.

    \b
    Examples:
      mlplatform schema > .mlplatform-schema.json
      mlplatform schema Experiment
      # then, as the first line of a file of documents:
      # yaml-language-server: $schema=.mlplatform-schema.json
    """
    from mlflow_platform.model.schema import any_kind

    if kind is None:
        title, schema = "Documents of mlflow-platform", any_kind()
    else:
        title, _, schema = _find(kind)
    output.print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema})


@click.command("init")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@click.option("--project", metavar="NAME", help="Owner of the objects. Default: the folder's name.")
def init_command(folder: Path, project: str | None) -> None:
    """Write starter documents into a folder, and mlplatform.toml with the project's name.

    Nothing that exists is overwritten.

    \b
    Examples:
      mlplatform init config
      mlplatform init config --project search-team
    """
    from mlflow_platform.config.starter import write

    for path in write(folder, project):
        click.echo(f"wrote {path}")
    click.echo(f"\nnext: edit them, then `mlplatform plan {folder}` and `mlplatform apply {folder}`")
