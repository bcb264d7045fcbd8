"""Batches on the wire: what MLflow's own client would send, and nothing that it would not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Metric, Param, RunTag
from mlflow.protos.service_pb2 import LogBatch

from mlflow_platform.client.batches import PARENT_TAG, Batch
from mlflow_platform.client.faults import understand
from mlflow_platform.client.spool import Record
from mlflow_platform.errors import Rejected

ENTITY = st.text(min_size=1, max_size=20)
NUMBER = st.integers(-(1 << 63), (1 << 63) - 1)
DATASET = st.just((None, None)) | st.tuples(ENTITY, ENTITY)
VALUE = st.floats() | st.integers(-(1 << 1000), 1 << 1000) | st.booleans()


@given(
    st.lists(st.tuples(ENTITY, VALUE, NUMBER, NUMBER), max_size=5),
    st.lists(st.tuples(ENTITY, VALUE, NUMBER, NUMBER, st.none() | ENTITY, DATASET), max_size=5),
    st.lists(st.tuples(ENTITY, st.text()), max_size=3, unique_by=lambda p: p[0]),
    st.lists(st.tuples(ENTITY | st.just(PARENT_TAG), st.text()), max_size=3, unique_by=lambda t: t[0]),
)
def test_a_batch_goes_over_the_wire_as_mlflows_own_client_sends_it(
    plain: Any, linked: Any, params: Any, tags: Any
) -> None:
    """Read as MLflow's server reads it, what we send is what its RestStore.log_batch sends."""

    def real(name: str) -> str:
        return f"real-{name}"

    batch = Batch()
    linked = [(*m[:5], *m[5]) for m in linked]
    for kind, entities in (("m", plain + linked), ("p", params), ("t", tags)):
        batch.add({"op": "log", kind: [list(e) for e in entities]})
    sent = ParseDict(json.loads(batch.request("run", real)), LogBatch())
    theirs = LogBatch(
        run_id="run",
        metrics=[
            *(Metric(*m).to_proto() for m in plain),
            *(Metric(*m[:4], m[4] and real(m[4]), *m[5:]).to_proto() for m in linked),
        ],
        params=[Param(*p).to_proto() for p in params],
        tags=[RunTag(k, real(v) if k == PARENT_TAG else v).to_proto() for k, v in tags],
    )
    assert sent.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "record",
    [
        {"m": [["half of a pair \ud800", 1.0, 1, 0]]},
        {"m": [["m", "0.5", 1, 0]]},
        {"m": [["m", None, 1, 0]]},
        {"m": [["m", 10**400, 1, 0]]},
        {"m": [["m", 1.0, 1, 0.5]]},
        {"m": [["m", 1.0, 1]]},
        # The server reads nothing of these, nor of what follows them, and answers 200.
        {"m": [["m", 1.0, 1, 1 << 63]]},
        {"m": [["m", 1.0, -(1 << 63) - 1, 0]]},
        {"m": [["m", 1.0, 1, 0, None, 5, "digest"]]},
        {"m": [["m", 1.0, 1, 0, 5, None, None]]},
        {"m": [[0, 1.0, 1, 0]]},
        {"p": [["p", None]]},
        {"p": [[7, "x"]]},
        {"t": [["t", "\udfff"]]},
        {"t": [["t", ["x"]]]},
    ],
)
def test_what_mlflows_client_would_not_send_is_the_records_own_fault(record: Record) -> None:
    batch = Batch()
    batch.add({"op": "log", **record})
    with pytest.raises((TypeError, ValueError, OverflowError)) as caught:
        batch.request("run", lambda name: name)
    assert isinstance(understand(caught.value, remote=True), Rejected)
