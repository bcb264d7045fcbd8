"""The shipper's order, pauses and bookkeeping, with a target that keeps what it gets and fails as told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_platform.client import segments
from mlflow_platform.client.faults import Doubtful
from mlflow_platform.client.progress import Reader, waiting
from mlflow_platform.client.segments import Writer
from mlflow_platform.client.shipper import Shipper
from mlflow_platform.client.spool import Record, Spool, encode
from mlflow_platform.errors import Rejected, Transient


class Kept:
    """A server in memory: a set, as MLflow's metrics are; `fault` decides which calls fail."""

    def __init__(self) -> None:
        self.got: list[Record] = []
        self.away: list[Record] = []
        self.calls = 0
        self.fault: Callable[[list[Record]], Exception | None] = lambda _: None

    def deliver(self, records: list[Record]) -> None:
        self.calls += 1
        if (error := self.fault(records)) is not None:
            raise error
        self.got += records

    def put_away(self, record: Record, error: Exception) -> None:
        self.away.append(record)


class Bench:
    """A spool, its writer, its shipper and a clock that only tests move."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.spool = Spool(folder)
        self.writer = Writer(folder, limit=1 << 30)
        self.target = Kept()
        self.now = 0.0
        self.again()

    def again(self) -> None:
        """A new shipper process."""
        self.shipper = Shipper(self.spool, lambda: self.target, clock=lambda: self.now)

    def put(self, *records: Record) -> None:
        for record in records:
            self.writer.append(encode(record))

    def ship(self, seconds: float = 1000.0) -> None:
        """Work for so long, by the bench's clock."""
        end = self.now + seconds
        while self.now < end:
            if not self.shipper.step():
                if self.shipper.settle() or not self.shipper.pending:
                    self.shipper._read_at = 0.0
                    if not self.shipper.step():
                        return
                self.now += 0.1


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "spool")


def metric(run: str, step: int, model: str | None = None) -> Record:
    more = [model, None, None] if model else []
    return {"op": "log", "run": run, "m": [["loss", 0.5, 1, step, *more]]}


def create(run: str, parent: str | None = None) -> Record:
    tags = [["mlflow.parentRunId", parent]] if parent else []
    return {
        "op": "create_run",
        "run": run,
        "experiment": "0",
        "user": "",
        "start": 1,
        "tags": tags,
        "name": "",
    }


def test_metrics_go_in_batches_and_in_order(bench: Bench) -> None:
    bench.put(create("a"), *(metric("a", i) for i in range(2500)))
    bench.ship()
    assert [r["m"][0][3] for r in bench.target.got[1:]] == list(range(2500))
    assert bench.target.calls == 1 + 3
    bench.writer.close()
    bench.ship()
    assert not segments.segments(bench.spool.root), "what is delivered is deleted"


def test_a_run_that_fails_holds_up_no_other(bench: Bench) -> None:
    bench.target.fault = lambda rs: Transient("later") if rs[0].get("run") == "bad" else None
    bench.put(create("bad"), metric("bad", 0), create("good"), metric("good", 0))
    bench.ship(60)
    assert {r["run"] for r in bench.target.got} == {"good"}
    assert bench.shipper.pending == 2
    bench.target.fault = lambda _: None
    bench.ship(60)
    assert [r["op"] for r in bench.target.got if r["run"] == "bad"] == ["create_run", "log"]


def test_children_models_and_links_wait_for_what_they_name(bench: Bench) -> None:
    """Records come before those they depend on, as from a process whose clock is behind."""
    model = {"op": "create_model", "model": "m", "experiment": "9", "run": "a", "name": "", "tags": []}
    bench.put(
        metric("a", 0, model="m"),
        {"op": "log_outputs", "run": "a", "models": [["m", 0]]},
        create("child", parent="a"),
        {**model, "params": [], "type": None},
        {"op": "create_run", **{k: v for k, v in create("a").items() if k != "op"}, "experiment": "9"},
        {"op": "create_experiment", "experiment": "9", "name": "e", "location": None, "tags": []},
    )
    bench.ship(5)
    ops = [(r["op"], r.get("run")) for r in bench.target.got]
    assert ops[:2] == [("create_experiment", None), ("create_run", "a")]
    assert ops.index(("create_model", "a")) < ops.index(("log", "a")) < ops.index(("log_outputs", "a"))
    assert ("create_run", "child") in ops


def test_an_outage_is_waited_out_with_few_requests(bench: Bench) -> None:
    bench.target.fault = lambda _: Transient("connection refused")
    bench.put(*(create(f"r{i}") for i in range(50)))
    bench.ship(600)
    assert bench.target.calls < 150
    assert bench.shipper.problem == "connection refused"
    assert bench.spool.cursor().problem == "connection refused"
    bench.target.fault = lambda _: None
    bench.ship(15)
    assert len(bench.target.got) == 50
    assert not bench.target.away
    assert bench.spool.cursor().problem == ""


def test_what_is_refused_is_put_away_and_nothing_else(bench: Bench) -> None:
    bench.target.fault = lambda rs: (
        Rejected("bad") if any(s["n"] == 7 for r in rs for s in r["spans"]) else None
    )
    spans = [{"op": "log_spans", "experiment": "1", "spans": [{"n": i}]} for i in range(20)]
    bench.put(*spans)
    bench.ship()
    assert bench.target.away == [spans[7]]
    assert sorted(r["spans"][0]["n"] for r in bench.target.got) == [i for i in range(20) if i != 7]


def test_keys_that_are_no_text_reach_the_server_that_refuses_them(bench: Bench) -> None:
    """One of them must not end the shipper, and each that is started after it."""
    odd: list[Record] = [
        {"m": [[0, 0.5, 1, 0]]},
        {"m": [["of no model", 0.5, 1, 0, ["m"], None, None]]},
        {"p": [[["a", "b"], "x"]]},
        {"t": [[None, "x"]]},
        {"t": [["mlflow.parentRunId", ["a"]]]},
    ]
    records: list[Record] = [{"op": "log", "run": "a", **one} for one in odd]
    bench.put(create("a"), *records, metric("a", 1))
    bench.ship()
    assert bench.target.got[1:] == [*records, metric("a", 1)]


def test_a_doubtful_failure_is_put_away_only_while_others_get_through(bench: Bench) -> None:
    bench.target.fault = lambda rs: Doubtful("500") if rs[0]["run"] == "bad" else None
    bench.put(create("bad"))
    bench.ship(3600)
    assert not bench.target.away, "nothing else got through: it may be the server"
    for i in range(50):
        bench.put(create(f"r{i}"))
        bench.ship(10)
    assert [r["run"] for r in bench.target.away] == ["bad"]


def tag(run: str, name: str) -> Record:
    return {"op": "delete_tag", "run": run, "key": name}


def test_what_is_done_behind_a_record_that_waits_is_not_kept_in_memory(bench: Bench) -> None:
    """Nor gone through each time: it was a day's work of others, for one run that could not be delivered."""
    bench.target.fault = lambda rs: Transient("later") if rs[0]["run"] == "bad" else None
    for i in range(1500):
        bench.put(tag("bad", f"b{i}") if i % 500 == 0 else tag("good", f"g{i}"))
    bench.ship(30)
    (track,) = bench.shipper._reader._tracks.values()
    assert [p.record["key"] for p in track.order if not p.done] == ["b0", "b500", "b1000"]
    assert len(track.order) <= 6
    assert bench.spool.cursor().done == {track.name: [(2, 500), (502, 1000), (1002, 1500)]}
    bench.again()
    bench.target.fault = lambda _: None
    bench.ship(30)
    assert len(bench.target.got) == 1500
    assert len({r["key"] for r in bench.target.got}) == 1500
    assert bench.spool.cursor().done == {}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_cursor_knows_what_is_done_in_whatever_order_it_was(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    writer = Writer(folder, limit=1 << 30)
    # What no reader can decode is lost, and done with.
    payloads = [b"{" if data.draw(st.booleans()) else encode(tag("a", str(i))) for i in range(12)]
    ends = [0, *(writer.append(payload).offset for payload in payloads)]
    done = {i for i, payload in enumerate(payloads) if payload == b"{"}
    spool = Spool(folder)
    reader = Reader(spool)
    open_ = list(reader.records(100))
    while open_:
        part = [open_.pop(data.draw(st.integers(0, len(open_) - 1))) for _ in range(min(len(open_), 2))]
        done |= {item.sequence - 1 for item in part}
        reader.done(part)
        (name,) = reader._tracks
        first = min(set(range(13)) - done)
        assert reader.cursor.offsets[name] == ends[first]
        ranges = reader.cursor.done.get(name, [])
        assert {i for a, b in ranges for i in range(a, b + 1)} == {i + 1 for i in done if i > first}
        assert all(b + 1 < a for (_, b), (a, _) in pairwise(ranges))
        if data.draw(st.booleans()):
            reader.save()
            reader = Reader(spool)
            again = list(reader.records(100))
            assert [i.sequence for i in again] == sorted(i.sequence for i in open_)
            open_ = again
    writer.close()


def test_writing_down_what_is_done_takes_a_tenth_of_the_time_at_most(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = []

    def save(reader: Reader) -> None:
        saves.append(reader.cursor.delivered)
        bench.now += 1.0
        reader._spool.save(reader.cursor)

    def second(_: list[Record]) -> None:
        bench.now += 1.0

    monkeypatch.setattr(Reader, "save", save)
    bench.target.fault = second
    bench.put(*(tag("a", str(i)) for i in range(200)))
    bench.ship(2000)
    assert len(bench.target.got) == 200
    assert 10 < len(saves) < 30
    assert bench.spool.cursor().delivered == 200, "at the end, all of it"


def test_events_are_told_once_though_the_shipper_is_killed(bench: Bench) -> None:
    bench.target.fault = lambda _: Transient("away")
    bench.put(create("a"), metric("a", 1))
    bench.ship(5)
    bench.again()
    bench.put(metric("a", 2))
    bench.target.fault = lambda _: None
    bench.ship()
    lines = [json.loads(line) for line in bench.spool.events.read_text().splitlines()]
    assert [line["op"] for line in lines] == ["create_run", "log", "log"]


def test_damage_is_counted_and_what_surrounds_it_delivered(bench: Bench) -> None:
    bench.put(*(metric("a", i) for i in range(3)))
    bench.writer.close()
    (path,) = segments.segments(bench.spool.root)
    middle = [f.end for f in segments.read(path, complete=True)]
    with path.open("r+b") as file:
        file.seek(middle[0] + 30)
        file.write(b"####")
        file.seek(0, 2)
        file.write(b"half a rec")
    bench.ship()
    assert [r["m"][0][3] for r in bench.target.got] == [0, 2]
    assert bench.spool.cursor().lost == middle[1] - middle[0] + 10


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_killed_anywhere_everything_arrives_and_a_run_keeps_its_order(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Several writers, faults of every kind, the shipper replaced in mid-work at random."""
    folder = tmp_path_factory.mktemp("spool")
    bench = Bench(folder / "s")
    runs = ["a", "b", "c"]
    writers = [bench.writer, Writer(bench.spool.root, limit=1 << 30, segment_bytes=700)]
    written: dict[str, list[int]] = {run: [] for run in runs}
    faults = data.draw(st.lists(st.sampled_from(["ok", "ok", "later", "killed", "lost"]), max_size=40))

    class Killed(BaseException):
        pass

    def fault(records: list[Record]) -> Exception | None:
        match faults.pop() if faults else "ok":
            case "later":
                return Transient("later")
            case "killed":
                raise Killed
            case "lost":
                bench.target.got += records  # carried out, and the answer lost
                return Transient("lost", uncertain=True)
        return None

    bench.target.fault = fault
    for step in range(data.draw(st.integers(1, 30))):
        run = data.draw(st.sampled_from(runs))
        # A run's records of one process: of two the order between them is by their clocks only.
        writers[runs.index(run) % 2].append(encode(metric(run, step)))
        written[run].append(step)
        if data.draw(st.booleans()):
            try:
                bench.ship(data.draw(st.floats(0, 3)))
            except Killed:
                bench.again()
    for writer in writers:
        writer.close()
    while True:
        try:
            bench.ship()
            break
        except Killed:
            bench.again()
    for run in runs:
        steps = [r["m"][0][3] for r in bench.target.got if r["run"] == run]
        assert list(dict.fromkeys(steps)) == written[run]
    assert bench.shipper.settle()
    assert not segments.segments(bench.spool.root)


def test_a_look_from_outside_goes_on_where_the_shipper_has_deleted_a_segment(bench: Bench) -> None:
    bench.put(create("a"))
    bench.writer.close()
    bench.put(create("b"))
    outside = waiting(bench.spool)
    assert next(outside)["run"] == "a"
    reader = Reader(bench.spool)
    reader._find()
    first, _ = segments.segments(bench.spool.root)
    first.unlink()
    assert [p.record["run"] for p in reader.records(10)] == ["b"]
    assert [r["run"] for r in outside] == ["b"]


def test_it_ends_when_its_spool_is_deleted(bench: Bench) -> None:
    bench.target.fault = lambda _: Transient("away")
    bench.put(create("a"))
    assert not bench.shipper.step()
    shutil.rmtree(bench.spool.root)
    bench.shipper.run(stop=lambda: False)
