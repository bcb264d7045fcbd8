"""The stack on the real servers: started twice, killed in every way, moved, run under each identity."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import urllib3

from mlflow_platform.errors import BadInput
from mlflow_platform.local import Stack, credentials
from mlflow_platform.local.postgres import MODES, OUTSIDE, Mode, data_folder
from mlflow_platform.local.processes import Process, ours, wait_gone
from tests.local.conftest import log_run, pids, read_run


def all_processes(stack: Stack) -> list[Process]:
    """Every process of a stack, Postgres' workers included."""
    settings = stack.settings()
    return list(ours(settings.id, data_folder(stack.folder, settings)))


def wait_healthy(stack: Stack, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not stack.status().healthy:
        assert time.monotonic() < deadline, stack.status()
        time.sleep(0.1)


def test_a_second_up_changes_nothing(breakable: Stack) -> None:
    before = pids(breakable)
    assert None not in before.values()
    assert breakable.up() is False
    assert pids(breakable) == before


def test_a_client_logs_a_run_with_an_artifact_through_s3(breakable: Stack) -> None:
    run = log_run(breakable, "client", "hello")
    assert read_run(breakable, run) == "42.0 hello"
    from mlflow_platform.local.seaweedfs import BUCKET, SeaweedFS

    s3 = SeaweedFS(breakable.folder, breakable.settings(), credentials.load(breakable.folder))
    keys = [o["Key"] for o in s3.client().list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert [k for k in keys if run in k and k.endswith("note.txt")]


def test_up_after_kill_9_of_every_process_keeps_the_data(breakable: Stack) -> None:
    run = log_run(breakable, "killed", "survives")
    ports = breakable.settings().ports
    everything = all_processes(breakable)
    assert len(everything) >= 4
    for process in everything:
        os.kill(process.pid, signal.SIGKILL)
    assert wait_gone(everything, 10.0)
    assert breakable.status().phase == "crashed"
    assert breakable.up(owned=True) is True
    assert breakable.status().healthy
    assert breakable.settings().ports == ports
    assert read_run(breakable, run) == "42.0 survives"


@pytest.mark.parametrize("name", ["postgres", "s3", "mlflow"])
def test_a_server_that_dies_comes_back_alone(breakable: Stack, name: str) -> None:
    run = log_run(breakable, "dies", name)
    before = pids(breakable)
    victim = before[name]
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while pids(breakable)[name] == victim:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    wait_healthy(breakable)
    after = pids(breakable)
    assert after.pop(name) != before.pop(name)
    assert after == before
    restarts = {p.name: p.restarts for p in breakable.status().processes}
    assert restarts[name] >= 1
    assert read_run(breakable, run) == f"42.0 {name}"


def test_a_server_that_takes_connections_and_answers_none_is_not_healthy(breakable: Stack) -> None:
    wait_healthy(breakable)
    settings = breakable.settings()
    server = pids(breakable)["mlflow"]
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    try:
        with socket.create_connection(("127.0.0.1", settings.ports["mlflow"]), timeout=5):
            status = breakable.status()
    finally:
        os.kill(server, signal.SIGCONT)
    assert {p.name for p in status.processes if not p.healthy} == {"mlflow"}
    wait_healthy(breakable)


def test_up_takes_over_what_a_killed_supervisor_left(breakable: Stack) -> None:
    before = pids(breakable)
    supervisor = before["supervisor"]
    assert supervisor is not None
    orphans = [p for p in all_processes(breakable) if p.pid != supervisor]
    os.kill(supervisor, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while breakable.status().phase != "crashed":
        assert time.monotonic() < deadline
    assert all(p.alive for p in orphans), "the servers outlive their supervisor"
    assert breakable.up(owned=True) is True
    assert not any(p.alive for p in orphans)
    assert breakable.status().healthy


def test_a_stale_pid_file_that_names_a_strangers_process_is_no_obstacle(breakable: Stack) -> None:
    """After a reboot the pid in postmaster.pid may belong to any program, which must not be touched."""
    for process in (everything := all_processes(breakable)):
        os.kill(process.pid, signal.SIGKILL)
    assert wait_gone(everything, 10.0)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]) as stranger:
        pid_file = data_folder(breakable.folder, breakable.settings()) / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        state = json.loads(breakable.folder.state.read_text())
        for running in (state["supervisor"], *(p["process"] for p in state["processes"].values())):
            running["pid"] = stranger.pid
        breakable.folder.state.write_text(json.dumps(state))
        try:
            assert not any(p.healthy for p in breakable.status().processes)
            assert breakable.down() == 0
            breakable.up(owned=True)
            assert breakable.status().healthy
            assert stranger.poll() is None, "a process that is not ours was ended"
        finally:
            stranger.kill()


def test_down_leaves_no_process_and_frees_the_ports(breakable: Stack) -> None:
    everything = all_processes(breakable)
    settings = breakable.settings()
    assert breakable.down() == len(everything)
    assert all_processes(breakable) == []
    assert not any(p.alive for p in everything)
    for port in settings.ports.values():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    assert breakable.down() == 0
    breakable.up(owned=True)


def test_a_taken_port_moves_the_server_and_keeps_the_data(breakable: Stack) -> None:
    run = log_run(breakable, "moved", "still here")
    breakable.down()
    before = breakable.settings().ports
    taken = ("mlflow", "postgres", "s3", "s3-master", "s3-volume", "s3-filer")
    listeners = []
    said: list[str] = []
    try:
        listeners += [socket.create_server(("127.0.0.1", before[name])) for name in taken]
        breakable.up(owned=True, progress=said.append)
    finally:
        for listener in listeners:
            listener.close()
    after = breakable.settings().ports
    assert {n for n in before if before[n] != after[n]} == set(taken)
    assert any(f"port {before['mlflow']} is in use" in line for line in said)
    assert read_run(breakable, run) == "42.0 still here"


def test_other_options_are_refused_while_it_runs(breakable: Stack) -> None:
    with pytest.raises(BadInput, match="runs with other options"):
        breakable.up(workspaces=True)
    assert breakable.status().healthy


def test_secrets_are_in_no_command_line_and_in_no_log(breakable: Stack) -> None:
    secrets = [v for k, v in asdict(credentials.load(breakable.folder)).items() if k != "admin_username"]
    lines = [Path(f"/proc/{p.pid}/cmdline").read_bytes() for p in all_processes(breakable)]
    assert any(b"weed" in line for line in lines)
    assert any(b"mlflow" in line for line in lines)
    texts = [*lines, *(p.read_bytes() for p in breakable.folder.logs.iterdir())]
    texts += [breakable.folder.settings.read_bytes(), breakable.folder.state.read_bytes()]
    assert not [secret for secret in secrets if any(secret.encode() in text for text in texts)]


def test_the_stores_inner_ports_serve_nobody_without_keys(breakable: Stack) -> None:
    """Another user of the machine can reach the ports, but neither objects nor S3's keys."""
    run = log_run(breakable, "private", "not for everybody")
    port = breakable.settings().ports
    listed = urllib3.request(
        "GET", f"http://127.0.0.1:{port['s3-filer']}/buckets/mlflow/?pretty=y", timeout=60
    )
    assert listed.status == 401
    assert run.encode() not in listed.data
    unsigned = urllib3.request("GET", f"http://127.0.0.1:{port['s3']}/mlflow", timeout=60)
    assert unsigned.status == 403
    # The same question with and without the certificates, which only the owner can read.
    assert "mlflow" in ask_the_filer(breakable, breakable.folder.root / "s3", seconds=30.0)
    assert "mlflow" not in ask_the_filer(breakable, Path("/"), seconds=5.0)


def ask_the_filer(stack: Stack, directory: Path, *, seconds: float) -> str:
    """The buckets as SeaweedFS' own shell lists them when started in a directory; it tries for ever."""
    port = stack.settings().ports
    asked = subprocess.Popen(
        [
            Path(sys.executable).parent / "weed",
            "shell",
            f"-master=127.0.0.1:{port['s3-master']}.{port['s3-master-grpc']}",
            f"-filer=127.0.0.1:{port['s3-filer']}.{port['s3-filer-grpc']}",
        ],
        cwd=directory,
        env={"HOME": "/nonexistent"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        return asked.communicate("fs.ls /buckets\nexit\n", timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        asked.kill()
        return asked.communicate()[0]


def test_files_are_for_their_owner_only(breakable: Stack) -> None:
    root = breakable.folder.root
    assert root.stat().st_mode & 0o777 == 0o700
    private = [breakable.folder.credentials, root / "s3" / "identities.json", root / "mlflow" / "auth.ini"]
    private += [breakable.folder.settings, breakable.folder.state, *breakable.folder.logs.iterdir()]
    assert {str(p): oct(p.stat().st_mode & 0o777) for p in private} == {str(p): "0o600" for p in private}


def test_two_stacks_side_by_side(breakable: Stack, stack: Stack) -> None:
    assert breakable.status().healthy
    assert stack.status().healthy
    one, other = set(breakable.settings().ports.values()), set(stack.settings().ports.values())
    assert not one & other
    assert not {p.pid for p in all_processes(breakable)} & {p.pid for p in all_processes(stack)}
    assert breakable.endpoints().password != stack.endpoints().password


#: Postgres' identity depends on who asks: root has two ways to run it.
_MODES: tuple[Mode, ...] = MODES[1:] if os.geteuid() == 0 else MODES[:1]


@pytest.mark.parametrize("mode", _MODES)
def test_every_way_to_run_postgres(tmp_path: Path, mode: Mode) -> None:
    stack = Stack(tmp_path / "data")
    try:
        stack.up(port=0, postgres_mode=mode, owned=True)
        assert stack.settings().postgres_mode == mode
        data = data_folder(stack.folder, stack.settings())
        assert data.is_relative_to(OUTSIDE if mode == "nobody" else stack.folder.root)
        assert data.stat().st_mode & 0o077 == 0
        for process in (everything := all_processes(stack)):
            os.kill(process.pid, signal.SIGKILL)
        assert wait_gone(everything, 10.0)
        stack.up(owned=True)
        assert stack.status().healthy
    finally:
        stack.reset()
    assert not data.parent.exists()
    assert not stack.folder.root.exists()


def test_an_ordinary_user_runs_it(tmp_path: Path) -> None:
    """In a user namespace of its own, where the process is uid 1000 without any privilege outside."""
    program = f"""
import os, sys
from pathlib import Path
from mlflow_platform.local import Stack
assert os.geteuid() == 1000, os.geteuid()
stack = Stack(Path({str(tmp_path / "data")!r}))
try:
    assert stack.up(port=0, owned=True)
    assert stack.settings().postgres_mode == "plain"
    assert stack.status().healthy
finally:
    stack.reset()
"""
    done = subprocess.run(
        [
            "/usr/bin/env",
            "unshare",
            "--user",
            "--map-user=1000",
            "--map-group=1000",
            sys.executable,
            "-c",
            program,
        ],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr


def test_concurrent_ups_start_one_stack(tmp_path: Path) -> None:
    data = tmp_path / "data"
    program = f"""
from pathlib import Path
from mlflow_platform.local import Stack
print(Stack(Path({str(data)!r})).up(port=0))
"""
    stack = Stack(data)
    try:
        racers = [
            subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        said = [racer.communicate(timeout=180)[0].strip() for racer in racers]
        assert [racer.returncode for racer in racers] == [0, 0, 0]
        assert sorted(said) == ["False", "False", "True"]
        assert stack.status().healthy
        supervisors = [
            p
            for p in all_processes(stack)
            if b"local.supervisor" in Path(f"/proc/{p.pid}/cmdline").read_bytes()
        ]
        assert len(supervisors) == 1
    finally:
        stack.reset()


def test_an_owned_stack_ends_with_its_owner(tmp_path: Path) -> None:
    data = tmp_path / "data"
    program = f"""
import os, signal
from pathlib import Path
from mlflow_platform.local import Stack
Stack(Path({str(data)!r})).up(port=0, owned=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    stack = Stack(data)
    try:
        done = subprocess.run([sys.executable, "-c", program], timeout=180)
        assert done.returncode == -signal.SIGKILL
        assert wait_gone(all_processes(stack), 30.0)
        assert stack.status().phase == "stopped"
    finally:
        stack.reset()
