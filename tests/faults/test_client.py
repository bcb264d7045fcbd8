"""The durable client among kills: what was acknowledged is on the server, once, whatever died in between."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from mlflow_platform.local import Stack
from tests.client.programs import Logging
from tests.client.stock_server import StockServer

pytest_plugins = ("tests.client.program_fixtures",)

#: Logs as fast as it can from some threads, and writes down each step whose call has returned. Started again,
#: it goes on in the same run, after the steps that were in flight when it was killed.
_PROGRAM = """
import os, sys, threading
from pathlib import Path
import mlflow
folder, (metrics, threads, deaths) = Path(sys.argv[1]), map(int, sys.argv[2:])
made = folder / "run"
known = made.read_text() if made.exists() else None
def work(key):
    acknowledged = os.open(folder / key, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    last = int(os.pread(acknowledged, 1 << 30, 0)[-9:] or -1)
    for step in range(last + 1 + deaths, metrics):
        mlflow.log_metric(key, step * 0.5, step=step, run_id=run.info.run_id)
        os.write(acknowledged, b"%08d\\n" % step)
with mlflow.start_run(run_id=known, run_name=None if known else f"{folder.name}-{os.getpid()}") as run:
    if not known:
        (folder / "run.new").write_text(run.info.run_id)
        (folder / "run.new").rename(made)
    workers = [threading.Thread(target=work, args=(f"m{i}",)) for i in range(threads)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
(folder / "ended").touch()
"""
_THREADS = 2


class Program:
    """One of many that log at once; killed, it is started again until it has logged everything."""

    def __init__(self, folder: Path, variables: dict[str, str], metrics: int) -> None:
        self.folder, self._variables, self._metrics = folder, variables, metrics
        self.deaths = 0
        folder.mkdir()
        self.start()

    def start(self) -> None:
        arguments = [str(self.folder), str(self._metrics), str(_THREADS), str(self.deaths)]
        with (self.folder / "errors").open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *arguments],
                env=self._variables,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.deaths += not self.ended
        if not self.ended:
            self.start()

    @property
    def ended(self) -> bool:
        if (code := self._process.poll()) is None:
            return False
        assert code in (0, -9), (self.folder / "errors").read_text()
        return code == 0

    def run(self) -> str | None:
        made = self.folder / "run"
        return made.read_text() if made.exists() else None

    def acknowledged(self, thread: int) -> list[int]:
        file = self.folder / f"m{thread}"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def progress(self) -> int:
        """How many metrics are acknowledged; a line of 9 bytes each."""
        return sum(f.stat().st_size // 9 for f in self.folder.glob("m?"))


def storm(
    logging: Logging,
    server: Server,
    plain: Any,
    folder: Path,
    *,
    programs: int,
    metrics: int,
    kills: int,
    restarts: int,
    seed: int,
) -> None:
    """`programs` at once that log `metrics` each, killed at `kills` random moments, their shipper at some of
    them; the server is killed `restarts` times, the first half of them while they log."""
    chance = random.Random(seed)
    folder.mkdir()
    # The experiment is there: what is tested is logging, not the names of those that lose a race.
    plain.create_experiment(logging.environment["EXPERIMENT"])
    variables = logging.variables(MLFLOW_EXPERIMENT_NAME=logging.environment["EXPERIMENT"])
    began = time.monotonic()
    all_of_them = [Program(folder / f"p{i}", variables, metrics // _THREADS) for i in range(programs)]
    moments = sorted(chance.uniform(0, 0.95) for _ in range(kills))
    outages = [(i + 1) / (restarts // 2 + 2) for i in range((restarts + 1) // 2)]
    later = restarts - len(outages)
    while not all(p.ended for p in all_of_them):
        time.sleep(0.1)
        progress = sum(p.progress() for p in all_of_them) / (programs * metrics)
        if moments and progress >= moments[0]:
            moments.pop(0)
            chance.choice([p for p in all_of_them if not p.ended] or all_of_them).kill()
            if chance.random() < 0.3:
                logging.stop_shipper()
        if outages and progress >= outages[0]:
            outages.pop(0)
            server.kill()
    logged = time.monotonic()
    sync_among_outages(logging, server, later + len(outages))
    delivered = time.monotonic()
    experiment = plain.get_experiment_by_name(logging.environment["EXPERIMENT"]).experiment_id
    runs = plain.search_runs([experiment], max_results=10_000)
    names = [r.info.run_name for r in runs]
    assert len(names) == len(set(names)), "a run twice"
    # A stock server has ids of its own, and ours as a tag.
    by_id = {r.data.tags.get("mlplatform.id", r.info.run_id): r for r in runs}
    total = in_flight = 0
    for program in all_of_them:
        run = by_id[program.run()]
        assert run.info.status == "FINISHED"
        for thread in range(_THREADS):
            acknowledged = program.acknowledged(thread)
            found = [m.step for m in plain.get_metric_history(run.info.run_id, f"m{thread}")]
            assert len(found) == len(set(found)), "a metric twice"
            assert set(found) >= set(acknowledged), "an acknowledged metric is lost"
            assert len(found) - len(acknowledged) <= program.deaths, "more than the one in flight"
            total, in_flight = total + len(acknowledged), in_flight + len(found) - len(acknowledged)
    deaths = sum(p.deaths for p in all_of_them)
    assert deaths, "nothing was killed"
    assert total >= 0.99 * programs * metrics
    print(
        f"{total} metrics acknowledged by {programs} programs, {in_flight} more in flight at {deaths} kills;"
        f" logged in {logged - began:.0f} s, the rest delivered in {delivered - logged:.0f} s"
    )


def sync_among_outages(logging: Logging, server: Server, outages: int) -> None:
    """Deliver everything, with the server killed at even distances of what is left."""
    whole = logging.spool.waiting(logging.spool.cursor())
    marks = [whole * (outages - i) / (outages + 1) for i in range(outages)]
    sync = logging.start_mlplatform("sync", "--timeout", "2400")
    try:
        while sync.poll() is None:
            if marks and logging.spool.waiting(logging.spool.cursor()) <= marks[0]:
                marks.pop(0)
                server.kill()
            time.sleep(0.2)
        assert sync.returncode == 0, sync.stdout and sync.stdout.read()
    finally:
        sync.kill()
        sync.communicate()
    server.up()


class Server(Protocol):
    """A server that comes back after it was killed."""

    def kill(self) -> None: ...

    def up(self) -> None: ...


class StackServer:
    """The MLflow of a stack, which the stack's supervisor starts again."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def kill(self) -> None:
        for process in self._stack.status().processes:
            if process.name == "mlflow" and process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)

    def up(self) -> None:
        self._stack.up()


class Restarted:
    """A stock server, which somebody starts again."""

    def __init__(self, stock: StockServer) -> None:
        self._stock = stock
        self.up = stock.up

    def kill(self) -> None:
        self._stock.kill()
        self._stock.up()


@pytest.fixture
def settled(stack: Stack) -> Iterator[StackServer]:
    """The shared stack's server; the stack is whole again afterwards."""
    yield StackServer(stack)
    stack.up()


def test_kills_of_programs_shipper_and_server_lose_and_double_nothing(
    logging_to: Logging, settled: StackServer, plain: Any, tmp_path: Path
) -> None:
    storm(
        logging_to, settled, plain, tmp_path / "acks", programs=3, metrics=4000, kills=4, restarts=1, seed=1
    )


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_soak_of_twenty_programs_and_five_restarts(
    logging_to: Logging, settled: StackServer, plain: Any, tmp_path: Path
) -> None:
    acks = tmp_path / "acks"
    storm(logging_to, settled, plain, acks, programs=20, metrics=50_000, kills=60, restarts=5, seed=2)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_soak_against_a_stock_server(stock: StockServer, tmp_path: Path) -> None:
    """A server that died is at work on nothing any more: what it had made is found by its tag."""
    import mlflow

    logging = Logging(stock.uri, {"EXPERIMENT": "storm"}, tmp_path / "spool")
    acks = tmp_path / "acks"
    try:
        client: Any = mlflow.MlflowClient(stock.uri)
        storm(
            logging, Restarted(stock), client, acks, programs=4, metrics=10_000, kills=8, restarts=2, seed=3
        )
    finally:
        logging.stop_shipper()
