"""Snapshots for pytorch.org/memory_viz: written as PyTorch writes its own."""

import base64
import json
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from estimator.allocator import AllocatorConfig, frames_of_ops, read_history, replay, snapshot, write_snapshot
from estimator.ledger import Category, Event, Ledger
from estimator.units import MIB

TRACES = Path(__file__).parent.parent / "data" / "traces"
LEDGER = Ledger(
    [
        Event(True, 0, 100, Category.PARAMETER),
        Event(True, 1, 30 * MIB, Category.ACTIVATION, 0),
        Event(True, 2, 0),
        Event(False, 1, 30 * MIB, Category.ACTIVATION, 0),
    ],
    [("model", 0), ("step0.forward", 1)],
)
OPS = [SimpleNamespace(name="aten.mm.default", module="encoder.0")]


@pytest.mark.pure
def test_events_carry_op_module_and_phase():
    trace = snapshot(LEDGER, frames=frames_of_ops(OPS))["device_traces"][0]
    assert [entry["action"] for entry in trace] == [
        "segment_alloc", "alloc", "segment_alloc", "alloc", "free_requested", "free_completed",
    ]  # fmt: skip
    assert [entry["time_us"] for entry in trace] == [0, 0, 1, 1, 3, 3]
    assert trace[3]["size"] == 30 * MIB
    assert trace[3]["frames"] == [
        {"name": "aten.mm.default", "filename": "encoder.0", "line": 0},
        {"name": "activation", "filename": "category", "line": 0},
        {"name": "step0.forward", "filename": "phase", "line": 0},
    ]
    assert trace[1]["frames"][-1]["name"] == "model"


@pytest.mark.pure
def test_segments_show_the_end():
    segments = snapshot(LEDGER)["segments"]
    assert [(s["segment_type"], s["total_size"], s["allocated_size"], s["requested_size"]) for s in segments] == [
        ("large", 30 * MIB, 0, 0), ("small", 2 * MIB, 512, 100),
    ]  # fmt: skip
    assert [(b["size"], b["state"]) for b in segments[1]["blocks"]] == [
        (512, "active_allocated"), (2 * MIB - 512, "inactive"),
    ]  # fmt: skip


@pytest.mark.pure
def test_a_request_that_fails_ends_the_timeline():
    trace = snapshot(LEDGER, limit_bytes=20 * MIB)["device_traces"][0]
    assert [entry["action"] for entry in trace] == ["segment_alloc", "alloc", "oom"]
    assert (trace[-1]["size"], trace[-1]["device_free"]) == (30 * MIB, 18 * MIB)


@pytest.mark.pure
@pytest.mark.parametrize("settings", ["", "expandable_segments:True", "max_split_size_mb:64"])
def test_a_snapshot_read_back_is_the_history_it_was_made_of(tmp_path, settings):
    """Written, turned into JSON and replayed, it gives the same run again."""
    ledger = read_history(TRACES / "tinygpt-amp-adamw@8-sm80.json.gz").ledger
    config, limit = AllocatorConfig.from_string(settings), 2_900 * MIB
    made = snapshot(ledger, config, limit)
    write_snapshot(tmp_path / "predicted.pickle", made)
    assert pickle.loads((tmp_path / "predicted.pickle").read_bytes()) == made
    (tmp_path / "predicted.json").write_text(json.dumps(made))
    again = read_history(tmp_path / "predicted.json")
    expected = replay(ledger, config, limit)
    result = replay(again.ledger, config, limit)
    assert result.segments == expected.segments
    assert result.peak_allocated_bytes == expected.peak_allocated_bytes
    assert sum(segment["total_size"] for segment in made["segments"]) == expected.at_end.reserved_bytes
    assert sum(segment["allocated_size"] for segment in made["segments"]) == expected.at_end.allocated_bytes
    assert sum(segment["requested_size"] for segment in made["segments"]) == expected.at_end.requested_bytes
    for segment in made["segments"]:
        assert sum(block["size"] for block in segment["blocks"]) == segment["total_size"]


@pytest.mark.torch
def test_pytorchs_own_tools_take_it():
    viz = pytest.importorskip("torch.cuda._memory_viz")
    made = snapshot(LEDGER, frames=frames_of_ops(OPS))
    told = viz.trace(made)
    assert "2.0MiB)\nb = a[0:100.0B]" in told
    assert "30.0MiB)\nd = c[0:30.0MiB]\ndel d" in told
    assert "32.0MiB" in viz.segsum(made).replace(" ", "")
    page = viz.trace_plot(made)
    packed = max(re.findall(r"[A-Za-z0-9+/=]{40,}", page), key=len)
    assert pickle.loads(base64.b64decode(packed)) == made
