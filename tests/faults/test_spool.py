"""What can happen to a program, its spool and its machine: what was acknowledged is on the server, once.

Kills of programs, shipper and server, and many programs on one spool are in `test_client`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from typing import Any

from mlflow_platform.client import segments
from tests.client.programs import Logging
from tests.faults.proxy import Proxy, refused_by_reset

pytest_plugins = ("tests.client.program_fixtures",)


def steps(plain: Any, run_id: str, key: str = "m") -> list[int]:
    return sorted(m.step for m in plain.get_metric_history(run_id, key))


def test_a_server_that_is_down_at_the_start_in_the_middle_and_at_the_exit(
    proxied: tuple[Logging, Proxy], plain: Any
) -> None:
    logging, proxy = proxied
    program = """
def say(word): print(word, flush=True); sys.stdin.readline()
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run(run_name="first") as run:
    mlflow.log_metric("m", 0, step=0)
    mlflow.log_text("x", "a.txt")
    say("started")
    while True:
        try:
            if client.search_runs([run.info.experiment_id]): break
        except mlflow.MlflowException as error:
            assert "away" in str(error), error
        time.sleep(0.2)
    mlflow.log_metric("m", 1, step=1)
    say("in the middle")
    mlflow.log_metric("m", 2, step=2)
    with mlflow.start_run(run_name="second", nested=True) as child:
        mlflow.log_param("p", "x")
    say("again")
    mlflow.log_metric("m", 3, step=3)
    mlflow.flush_async_logging()
    say("at the exit")
    mlflow.log_metric("m", 4, step=4)
print(json.dumps([run.info.run_id, child.info.run_id]))
"""
    down: Callable[[], None] = lambda: proxy.on("", refused_by_reset, times=-1)  # noqa: E731
    up = proxy._rules.clear
    # The experiment is known: a program before this one has used it.
    plain.create_experiment(logging.environment["EXPERIMENT"])
    down()
    process = logging.start(program)
    assert process.stdin is not None
    assert process.stdout is not None
    said = []
    with process:
        for then in (up, down, up, down):
            said.append(process.stdout.readline().strip())
            then()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write("\n")
                process.stdin.flush()
        out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert said == ["started", "in the middle", "again", "at the exit"]
    first, second = json.loads(out.splitlines()[-1])
    up()
    assert logging.sync().returncode == 0
    assert steps(plain, first) == list(range(5))
    run, child = plain.get_run(first), plain.get_run(second)
    assert [run.info.status, child.info.status] == ["FINISHED"] * 2
    assert child.data.params == {"p": "x"}
    assert [f.path for f in plain.list_artifacts(first)] == ["a.txt"]
    assert len(plain.search_runs([run.info.experiment_id])) == 2


def test_a_corrupt_end_costs_what_is_corrupt_and_sync_says_so(logging_to: Logging, plain: Any) -> None:
    program = """
with mlflow.start_run() as run:
    for i in range(200): mlflow.log_metric("m", i, step=i)
    print(run.info.run_id, flush=True)
    os._exit(0)
"""
    run_id = logging_to.run(program, MLPLATFORM_OFFLINE="1").splitlines()[-1]
    (path,) = segments.segments(logging_to.spool.root)
    ends = [f.end for f in segments.read(path, complete=True) if isinstance(f, segments.Frame)]
    with path.open("r+b") as file:
        # The last record is torn, as by a power cut, and garbage follows.
        file.truncate(ends[-1] - 5)
        file.seek(0, 2)
        file.write(os.urandom(3000))
    done = logging_to.sync()
    assert done.returncode == 0, done.stdout + done.stderr
    lost = ends[-1] - 5 + 3000 - ends[-2]
    assert f"{lost} byte(s) of the spool were damaged and could not be read" in done.stdout
    assert steps(plain, run_id) == list(range(199))
    status = logging_to.mlplatform("spool", "status")
    assert status.returncode == 1
    assert f"{lost} byte(s)" in status.stdout


def test_a_full_disk_refuses_what_it_cannot_hold_and_loses_nothing_that_it_took(
    logging_to: Logging, plain: Any
) -> None:
    """A limit of the size of files is a disk on which every file that grows meets the end."""
    program = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def disk(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
taken, refused = [], 0
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run() as run:
    def log(steps):
        global refused
        for i in steps:
            try:
                mlflow.log_metric("m", i, step=i)
                taken.append(i)
            except mlflow.MlflowException as error:
                assert "was not logged" in str(error), error
                refused += 1
    with open("large.txt", "w") as large:
        large.write("x" * 60_000)
    disk(50_000)
    log(range(1000))
    full = refused
    try:
        mlflow.log_artifact("large.txt")
    except OSError:
        refused += 1
    disk(resource.RLIM_INFINITY)
    log(range(1000, 1100))
    mlflow.log_text("x", "small.txt")
print(json.dumps([run.info.run_id, taken, full, refused]))
"""
    # The server is not asked for the experiment's name twice: that is no logging.
    printed = logging_to.run(program, MLPLATFORM_OFFLINE="1", MLPLATFORM_STRICT="1").splitlines()[-1]
    run_id, taken, full, refused = json.loads(printed)
    assert full > 100
    assert refused == full + 1, "what came after there was room again was taken"
    assert taken[-1] == 1099
    state = json.loads(logging_to.mlplatform("spool", "status", "--json").stdout)["spools"][0]
    assert state["refused"] == refused
    assert len(list(logging_to.spool.blobs.iterdir())) == 1, "half an artifact is left"
    assert logging_to.sync().returncode == 0
    assert steps(plain, run_id) == taken
    assert [f.path for f in plain.list_artifacts(run_id)] == ["small.txt"]


def test_a_spool_that_a_full_disk_kept_from_saying_whose_it_is_is_delivered(
    logging_to: Logging, plain: Any
) -> None:
    """Made while the disk was full, and written to when there is room again."""
    program = """
import resource, signal
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def disk(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
from mlflow_platform.client.spool import spools
(spool,) = spools(Path(os.environ["MLPLATFORM_SPOOL"]))
spool.description.unlink()
disk(0)
mlflow.set_tracking_uri(mlflow.get_tracking_uri() + "/")  # for MLflow another one: a store of its own
with mlflow.start_run():
    pass
assert not spool.description.exists()
disk(resource.RLIM_INFINITY)
time.sleep(1.1)
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run() as run:
    mlflow.log_metric("m", 1.0)
print(run.info.run_id)
"""
    run_id = logging_to.run(program).splitlines()[-1]
    assert logging_to.sync().returncode == 0
    assert plain.get_run(run_id).data.metrics == {"m": 1.0}


def test_a_file_of_a_folder_that_cannot_be_read_costs_no_other(logging_to: Logging, plain: Any) -> None:
    program = """
from pathlib import Path
folder = Path("to log, 100%")
folder.mkdir()
(folder / "0").symlink_to("nowhere")
for name in ("ünïcode 1", "100% 1.txt", "z" * 200):
    (folder / name).write_text(name)
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run() as run:
    mlflow.log_artifacts(folder)
print(run.info.run_id)
"""
    run_id = logging_to.run(program)
    assert logging_to.warnings.count("an artifact was not logged: FileNotFoundError") == 1
    assert logging_to.sync().returncode == 0
    names = {"ünïcode 1", "100% 1.txt", "z" * 200}
    assert {f.path for f in plain.list_artifacts(run_id)} == names


def test_a_full_disk_does_not_stop_the_delivery(logging_to: Logging, plain: Any) -> None:
    """No file can be written by what delivers, as the spool has filled the disk."""
    program = """
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run() as run:
    for i in range(100): mlflow.log_metric("m", i, step=i)
    mlflow.log_text("x", "a.txt")
print(run.info.run_id)
"""
    run_id = logging_to.run(program, MLPLATFORM_OFFLINE="1").splitlines()[-1]
    full = """
import resource, signal
from pathlib import Path
from mlflow_platform.client.shipper import Shipper, connect, prepare_environment
from mlflow_platform.client.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
spool = Spool(Path(sys.argv[1]))
prepare_environment(spool.uri)
shipper = Shipper(spool, connect(spool))
deadline = time.monotonic() + 60
while (shipper.step() or shipper.pending) and time.monotonic() < deadline: pass
shipper.settle()
os.write(2, f"{shipper.pending} {shipper.problem}".encode())
"""
    logging_to.run(full, str(logging_to.spool.root))
    assert logging_to.warnings.endswith("0 ")
    assert steps(plain, run_id) == list(range(100))
    assert [f.path for f in plain.list_artifacts(run_id)] == ["a.txt"]
    assert not segments.segments(logging_to.spool.root), "the room is free again"


def test_forks_in_the_middle_of_writes_of_threads(logging_to: Logging, plain: Any) -> None:
    """Threads log all the time while the process forks; each child logs to the same run, some are killed."""
    program = """
import signal, threading
with mlflow.start_run() as run:
    def work(key, count):
        for i in range(count): mlflow.log_metric(key, i, step=i, run_id=run.info.run_id)
    threads = [threading.Thread(target=work, args=(f"t{i}", 1500)) for i in range(3)]
    for thread in threads: thread.start()
    children = []
    for i in range(6):
        if not (child := os.fork()):
            signal.alarm(60)  # a child that waits for a lock of its parent's threads ends
            work(f"c{i}", 100)
            os.kill(os.getpid(), signal.SIGKILL) if i % 2 else os._exit(0)
        children.append(child)
        time.sleep(0.02)
    for child in children: os.waitpid(child, 0)
    for thread in threads: thread.join()
print(run.info.run_id)
"""
    run_id = logging_to.run(program).splitlines()[-1]
    done = logging_to.sync()
    assert done.returncode == 0, done.stdout
    assert "damaged" not in done.stdout
    for key, count in [*((f"t{i}", 1500) for i in range(3)), *((f"c{i}", 100) for i in range(6))]:
        assert steps(plain, run_id, key) == list(range(count)), key


def test_a_clock_that_goes_back_loses_nothing_and_changes_no_order(logging_to: Logging, plain: Any) -> None:
    """The program's clock goes back an hour among segments; a second program on the spool, two hours behind,
    goes on with the run that the first has made. Nothing is delivered in between."""
    program = """
from mlflow_platform.client import segments
for writer in segments._writers: writer._segment_bytes = 4000
behind, now, now_ns = [0], time.time, time.time_ns
time.time, time.time_ns = lambda: now() - behind[0], lambda: now_ns() - behind[0] * 10**9
"""
    first = """
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run() as run:
    for i in range(300):
        if i % 100 == 50: behind[0] += 3600
        mlflow.log_metric("m", i, step=i)
        mlflow.set_tag("last", i)
print(run.info.run_id)
"""
    second = """
behind[0] = 7200
with mlflow.start_run(run_id=sys.argv[1]):
    for i in range(300, 400): mlflow.log_metric("m", i, step=i)
"""
    run_id = logging_to.run(program + first, MLPLATFORM_OFFLINE="1").splitlines()[-1]
    logging_to.run(program + second, run_id, MLPLATFORM_OFFLINE="1")
    assert len(segments.segments(logging_to.spool.root)) > 5
    assert logging_to.sync().returncode == 0
    assert steps(plain, run_id) == list(range(400))
    run = plain.get_run(run_id)
    assert run.data.tags["last"] == "299"
    assert run.info.status == "FINISHED"
