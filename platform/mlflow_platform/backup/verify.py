"""Proves a backup by reading it: every table, every object that is to be read, against their digests."""

from __future__ import annotations

import gzip
import hashlib
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mlflow_platform.adapters.transfers import parallel, repeated
from mlflow_platform.adapters.trees import GONE
from mlflow_platform.backup import manifest
from mlflow_platform.backup.copying import BLOCK, WORKERS
from mlflow_platform.backup.index import Entry, entries, known
from mlflow_platform.backup.manifest import Manifest
from mlflow_platform.backup.placing import content
from mlflow_platform.backup.vault import BACKUPS, Vault, as_file
from mlflow_platform.errors import BadInput, Fatal, Rejected
from mlflow_platform.server.dump import Table

#: Problems that are kept with their words; of more, only the number.
SHOWN = 100


@dataclass
class Verified:
    """What was read, in bytes of content, and what was wrong. Content of several objects is read once."""

    backup: str
    tables: int = 0
    rows: int = 0
    objects: int = 0
    contents: int = 0
    size: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)

    def fail(self, what: str) -> None:
        self.failed += 1
        if len(self.problems) < SHOWN:
            self.problems.append(what)


def verify(
    vault: Vault, name: str, *, share: float = 1.0, say: Callable[[str], None] = lambda _: None
) -> Verified:
    """Read all tables, and a random share of the contents (0 to 1); the others must be there."""
    found = manifest.read(vault, name)
    report = Verified(name)
    say("reading the databases")
    verify_tables(vault, found, report)
    verify_objects(vault, found, report, share=share, say=say)
    return report


def verify_tables(vault: Vault, found: Manifest, report: Verified) -> None:
    for database, dumped in manifest.databases(vault, found).items():
        for table in dumped.tables:
            try:
                verify_table(vault, f"{BACKUPS}{found.name}/{database}/{table.stream}", table)
            except (Fatal, Rejected) as error:
                report.fail(error.problem.what)
            report.tables += 1
            report.rows += table.rows


def verify_table(vault: Vault, stream: str, table: Table) -> None:
    """`Fatal` where a table's stream is not what was written. COPY's text has a line a row."""
    digest, rows = hashlib.sha256(), 0
    try:
        with vault.reading(stream) as source, gzip.GzipFile(fileobj=as_file(source), mode="rb") as text:
            while block := text.read(BLOCK):
                digest.update(block)
                rows += block.count(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        raise Fatal(f"{stream} is damaged: {error}") from error
    except Rejected as error:
        if error.code not in GONE:
            raise
        raise Fatal(f"{stream} is lost") from error
    if (rows, digest.hexdigest()) != (table.rows, table.sha256):
        raise Fatal(f"{stream} is damaged: {rows:,} rows, {table.rows:,} were written")


def verify_objects(
    vault: Vault,
    found: Manifest,
    report: Verified,
    *,
    share: float = 1.0,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    with known() as there, known() as seen:
        there.add_contents(s.key for s in vault.tree.listed(vault.contents))

        def wanted() -> Iterator[Entry]:
            for root in found.roots:
                try:
                    for entry in entries(vault, root):
                        report.objects += 1
                        name = vault.content(entry.sha256)
                        if not there.has_content(name):
                            report.fail(f"{entry.stat.key} is lost: {name} is not there")
                        elif not seen.has_content(name):
                            seen.add_contents([name])
                            if share >= 1 or random.random() < share:  # noqa: S311 - a sample
                                yield entry
                except (Fatal, Rejected, BadInput) as error:
                    report.fail(error.problem.what)

        for entry, problem in parallel(lambda e: (e, read_one(vault, e)), wanted(), WORKERS):
            report.contents += 1
            report.size += entry.stat.size
            if problem:
                report.fail(problem)
            if report.contents % 100 == 0:
                say(f"{report.contents:,} contents, {report.size / 2**20:,.0f} MiB read")


def read_one(vault: Vault, entry: Entry) -> str:
    """Read an object's content to its end; what is wrong with it, empty if nothing is."""

    def read() -> None:
        for _ in content(vault, entry):
            pass

    try:
        repeated(read)
    except (Fatal, Rejected, BadInput) as error:
        return f"{entry.stat.key}: {error.problem.what}"
    return ""
