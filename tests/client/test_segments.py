"""Segments: what was appended is read back, whatever happens to the file, the disk and the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_platform.client import segments
from mlflow_platform.client.segments import Damage, Frame, RecordTooLarge, SpoolFull, Writer

ROOM = 1 << 30
payloads = st.lists(st.binary(max_size=200), min_size=1, max_size=30)


def everything(path: Path, *, complete: bool = True) -> list[Frame | Damage]:
    """A whole segment, part by part as the shipper reads it."""
    found: list[Frame | Damage] = []
    offset = 0
    while part := list(segments.read(path, offset, complete=complete)):
        found += part
        offset = part[-1].end
    return found


def texts(found: list[Frame | Damage]) -> list[bytes]:
    return [f.payload for f in found if isinstance(f, Frame)]


def written(folder: Path, records: list[bytes]) -> Path:
    writer = Writer(folder, limit=ROOM)
    for record in records:
        writer.append(record)
    writer.close()
    (path,) = segments.segments(folder)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@given(payloads)
def test_what_was_appended_is_read_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes]
) -> None:
    path = written(tmp_path_factory.mktemp("s"), records)
    found = everything(path)
    assert texts(found) == records
    assert [f.sequence for f in found if isinstance(f, Frame)] == list(range(1, len(records) + 1))
    assert found[-1].end == path.stat().st_size


@given(payloads, st.data())
def test_a_segment_cut_anywhere_gives_every_whole_record_and_says_what_is_lost(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], data: st.DataObject
) -> None:
    path = written(tmp_path_factory.mktemp("s"), records)
    ends = [f.end for f in everything(path)]
    cut = data.draw(st.integers(segments.HEADER_BYTES, path.stat().st_size))
    os.truncate(path, cut)
    whole = sum(end <= cut for end in ends)
    found = everything(path)
    assert texts(found) == records[:whole]
    lost = cut - (ends[whole - 1] if whole else segments.HEADER_BYTES)
    assert [d.end - d.start for d in found if isinstance(d, Damage)] == ([lost] if lost else [])
    assert not [d for d in everything(path, complete=False) if isinstance(d, Damage)], "it may go on"


@given(payloads, st.data())
def test_one_wrong_byte_costs_one_record(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], data: st.DataObject
) -> None:
    path = written(tmp_path_factory.mktemp("s"), records)
    ends = [f.end for f in everything(path)]
    at = data.draw(st.integers(segments.HEADER_BYTES, path.stat().st_size - 1))
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x5A]))
    hit = sum(end <= at for end in ends)
    found = everything(path)
    assert texts(found) == records[:hit] + records[hit + 1 :]
    assert [(d.start, d.end) for d in found if isinstance(d, Damage)] == [
        (ends[hit - 1] if hit else segments.HEADER_BYTES, ends[hit])
    ]


def test_zeros_from_a_crash_of_the_machine_are_damage_not_records(folder: Path) -> None:
    path = written(folder, [b"a", b"b"])
    with path.open("ab") as file:
        file.write(bytes(10_000))
    found = everything(path)
    assert texts(found) == [b"a", b"b"]
    assert isinstance(found[-1], Damage)


def test_large_and_many_records_span_several_parts(folder: Path) -> None:
    records = [os.urandom(3 << 20), b"x" * 10, os.urandom(6 << 20), b"", os.urandom(segments.MAX_RECORD)]
    writer = Writer(folder, limit=ROOM)
    for record in records:
        writer.append(record)
    writer.close()
    found = [f for path in segments.segments(folder) for f in everything(path)]
    assert texts(found) == records
    with pytest.raises(RecordTooLarge):
        writer.append(bytes(segments.MAX_RECORD + 1))


def test_a_writer_begins_new_segments_and_keeps_the_order(folder: Path) -> None:
    writer = Writer(folder, limit=ROOM, segment_bytes=500)
    records = [b"%d" % i for i in range(100)]
    ends = [writer.append(record) for record in records]
    paths = segments.segments(folder)
    assert len(paths) > 3
    assert [t for path in paths for t in texts(everything(path))] == records
    assert ends[-1].segment == paths[-1].name
    assert ends[-1].offset == paths[-1].stat().st_size
    assert [segments.is_written(p) for p in paths] == [False] * (len(paths) - 1) + [True]
    writer.close()
    assert not segments.is_written(paths[-1])


def test_a_full_spool_refuses_counts_and_takes_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_FULL_PAUSE", 0.0)
    writer = Writer(folder, limit=3000, segment_bytes=1000)
    taken = refused = 0
    for _ in range(200):
        try:
            writer.append(b"x" * 50)
            taken += 1
        except SpoolFull:
            refused += 1
    assert refused > 100
    paths = segments.segments(folder)
    assert sum(len(texts(everything(p, complete=False))) for p in paths) == taken
    assert sum(segments.refused_of(p) for p in paths) == refused
    paths[0].unlink()
    writer.append(b"again")


def test_a_full_disk_leaves_no_half_record(folder: Path) -> None:
    """A file size limit is a disk that takes the first part of a record and no more."""
    program = """
import resource, signal, sys
from pathlib import Path
from mlflow_platform.client.segments import SpoolFull, Writer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
writer = Writer(Path(sys.argv[1]), limit=1 << 30)
taken = refused = 0
for i in range(200):
    try:
        writer.append(b"%d " % i * 30)
        taken += 1
    except SpoolFull:
        refused += 1
print(taken, refused)
"""
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    taken, refused = map(int, done.stdout.split())
    assert refused > 0
    (path,) = segments.segments(folder)
    found = everything(path)
    assert len(texts(found)) == taken
    assert not [d for d in found if isinstance(d, Damage)]
    assert segments.refused_of(path) == refused


def test_an_unwritable_folder_refuses(folder: Path) -> None:
    writer = Writer(folder / "missing", limit=ROOM)
    with pytest.raises(SpoolFull):
        writer.append(b"x")
    (folder / "missing").mkdir()
    writer.append(b"x")
    (path,) = segments.segments(folder / "missing")
    assert segments.refused_of(path) == 1


def test_threads_share_a_writer(folder: Path) -> None:
    writer = Writer(folder, limit=ROOM, segment_bytes=20_000)

    def work(name: int) -> None:
        for i in range(500):
            writer.append(b"%d-%d" % (name, i))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [t for path in segments.segments(folder) for t in texts(everything(path, complete=False))]
    assert sorted(found) == sorted(b"%d-%d" % (n, i) for n in range(8) for i in range(500))


def test_a_fork_in_mid_write_loses_nothing(folder: Path) -> None:
    """A thread appends all the time while the process forks; children append to segments of their own."""
    program = """
import os, sys, threading
from pathlib import Path
from mlflow_platform.client.segments import Writer
writer = Writer(Path(sys.argv[1]), limit=1 << 30)
stop = threading.Event()
count = 0
def work():
    global count
    while not stop.is_set():
        writer.append(b"parent %d " % count + b"x" * 5000)
        count += 1
thread = threading.Thread(target=work)
thread.start()
children = []
for child in range(20):
    pid = os.fork()
    if not pid:
        for i in range(10):
            writer.append(b"child %d %d" % (child, i))
        os._exit(0)
    children.append(pid)
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
thread.join()
print(count)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, folder], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = [f for path in segments.segments(folder) for f in everything(path)]
    assert not [d for d in found if isinstance(d, Damage)]
    names = [t.split(b" x")[0] for t in texts(found)]
    expected = {b"parent %d" % i for i in range(int(done.stdout))}
    expected |= {b"child %d %d" % (c, i) for c in range(20) for i in range(10)}
    assert {n.removesuffix(b" ") if n.startswith(b"child") else n for n in names} >= expected
    assert len(names) == len(expected)


def test_kill_9_keeps_every_acknowledged_record(folder: Path) -> None:
    program = """
import sys
from pathlib import Path
from mlflow_platform.client.segments import Writer
writer = Writer(Path(sys.argv[1]), limit=1 << 30)
i = 0
while True:
    writer.append(b"%d" % i)
    sys.stdout.write(f"{i}\\n")
    sys.stdout.flush()
    i += 1
"""
    process = subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 300:
        pass
    (path,) = segments.segments(folder)
    assert segments.is_written(path)
    process.send_signal(signal.SIGKILL)
    # Those that are read before the kill count, too: on a busy machine there may be no other.
    acknowledged = [300, *(int(line) for line in process.stdout.read().split("\n")[:-1])]
    process.wait()
    process.stdout.close()
    assert not segments.is_written(path)
    numbers = [int(t) for t in texts(everything(path))]
    assert numbers[: max(acknowledged) + 1] == list(range(max(acknowledged) + 1))
    assert len(numbers) - (max(acknowledged) + 1) <= 1, "at most the one in flight"


def test_a_reader_beside_a_writer_sees_no_damage(folder: Path) -> None:
    writer = Writer(folder, limit=ROOM, segment_bytes=1 << 30)
    writer.append(b"first")
    (path,) = segments.segments(folder)
    done = threading.Event()

    def work() -> None:
        for i in range(3000):
            writer.append(bytes([i % 256]) * (i % 20_000))
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    offset, seen = 0, 0
    while True:
        last = done.is_set()
        for item in segments.read(path, offset, complete=False):
            assert isinstance(item, Frame)
            seen += 1
            assert item.sequence == seen
            offset = item.end
        if last and offset == path.stat().st_size:
            break
    thread.join()
    assert seen == 3001


@settings(max_examples=20)
@given(st.lists(st.integers(-(10**9), 10**9), min_size=2, max_size=10))
def test_a_clock_that_jumps_changes_no_order(
    tmp_path_factory: pytest.TempPathFactory, jumps: list[int]
) -> None:
    clock = iter([10**18 + jump for jump in [0, *jumps]])
    original = time.time_ns
    time.time_ns = lambda: next(clock)
    try:
        path = written(tmp_path_factory.mktemp("s"), [b"%d" % i for i in range(len(jumps))])
    finally:
        time.time_ns = original
    assert texts(everything(path)) == [b"%d" % i for i in range(len(jumps))]


@settings(max_examples=20)
@given(st.lists(st.integers(-(10**9), 10**9), min_size=30, max_size=60))
def test_nor_does_it_change_the_order_of_a_writers_segments(
    tmp_path_factory: pytest.TempPathFactory, jumps: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("s")
    clock = iter([10**18 + jump for jump in jumps])
    original = time.time_ns
    time.time_ns = lambda: next(clock)
    records = [b"%d" % i for i in range(len(jumps) // 3)]
    try:
        writer = Writer(folder, limit=ROOM, segment_bytes=80)
        for record in records:
            writer.append(record)
        writer.close()
    finally:
        time.time_ns = original
    found = [frame for path in segments.segments(folder) for frame in everything(path)]
    assert len(segments.segments(folder)) > 1
    assert texts(found) == records
    times = [frame.time for frame in found]
    assert times == sorted(set(times))


def test_a_folder_with_room_is_seldom_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def look(folder: Path) -> int:
        looked.append(folder)
        return 0

    monkeypatch.setattr(segments, "folder_bytes", look)
    writer = Writer(tmp_path, limit=4 << 30)
    for _ in range(24):
        writer.append(bytes(1 << 20))
    assert len(looked) == 4, "each 8 MB, the heads of the records with them"
    looked.clear()
    writer = Writer(tmp_path, limit=100 << 20)
    for _ in range(24):
        writer.append(bytes(1 << 19))
    assert len(looked) == 24, "the less room, the more often"
