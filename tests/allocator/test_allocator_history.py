"""Recorded histories read: both forms, and what is refused."""

import gzip
import json
import pickle

import pytest

from estimator.allocator import read_history
from estimator.allocator.command import replay_report
from estimator.errors import ConfigError
from estimator.ledger import Event
from estimator.units import MIB

pytestmark = pytest.mark.pure

# Two segments; a block of 100 bytes, one of 30 MiB that is freed, one that fails, and one after it.
EVENTS = [
    ("segment_alloc", 2 * MIB, 0),
    ("alloc", 100, 0),
    ("segment_alloc", 30 * MIB, 4 * MIB),
    ("alloc", 30 * MIB, 4 * MIB),
    ("free_requested", 30 * MIB, 4 * MIB),
    ("free_completed", 30 * MIB, 4 * MIB),
    ("segment_free", 30 * MIB, 4 * MIB),
    ("oom", 90 * MIB, 62 * MIB),
    ("segment_alloc", 40 * MIB, 4 * MIB),
    ("alloc", 40 * MIB, 4 * MIB),
]
LEDGER = [
    Event(True, 0, 100),
    Event(True, 1, 30 * MIB),
    Event(False, 1, 30 * MIB),
    Event(True, 3, 90 * MIB),
    Event(False, 3, 90 * MIB),
    Event(True, 5, 40 * MIB),
]
SEGMENTS = (2 * MIB, 30 * MIB, -30 * MIB, 40 * MIB)


def ours(events=EVENTS, **more):
    names = sorted({action for action, _, _ in events})
    rows = [[names.index(action), size, address] for action, size, address in events]
    return {"actions": names, "events": rows, "limit_bytes": 64 * MIB, **more}


def entries(events=EVENTS, stream=0):
    return [
        {"action": action, "size": size, "device_free" if action == "oom" else "addr": address, "stream": stream}
        for action, size, address in events
    ]


def save(tmp_path, content, name="history.json"):
    path = tmp_path / name
    data = json.dumps(content).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def test_our_form(tmp_path):
    content = ours(
        phase_ends=[["model", 2], ["step0.forward", 8], ["step0.backward", 10]],
        allocator_settings="max_split_size_mb:30", total_memory=65 * MIB,
        peak_requested=1, peak_allocated=2, peak_reserved=3, num_alloc_retries=4, num_ooms=5,
    )  # fmt: skip
    history = read_history(save(tmp_path, content))
    assert history.ledger.events == LEDGER
    assert history.ledger.phases == [("model", 0), ("step0.forward", 1), ("step0.backward", 5)]
    assert history.rows == (1, 3, 4, 7, 7, 9)
    assert history.segments == SEGMENTS
    assert history.caught == {3}
    assert (history.settings, history.limit_bytes, history.total_bytes) == ("max_split_size_mb:30", 64 * MIB, 65 * MIB)
    assert history.recorded == {
        "peak_requested_bytes": 1, "peak_allocated_bytes": 2, "peak_reserved_bytes": 3, "num_alloc_retries": 4,
        "num_ooms": 5,
    }  # fmt: skip


@pytest.mark.parametrize("form", ["snapshot", "list", "second device"])
def test_pytorchs_form(tmp_path, form):
    settings = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:30"}
    content = {
        "snapshot": {"segments": [], "device_traces": [entries()], "allocator_settings": settings},
        "list": entries(),
        "second device": {"device_traces": [[], entries()], "allocator_settings": settings},
    }[form]
    history = read_history(save(tmp_path, content, "snapshot.json.gz"))
    assert history.ledger.events == LEDGER
    assert history.segments == SEGMENTS
    assert history.settings == ("" if form == "list" else "max_split_size_mb:30")
    # By addition alone: 100 + 40 MiB asked for at most, 2 + 40 MiB held.
    assert history.recorded == {"peak_requested_bytes": 40 * MIB + 100, "peak_reserved_bytes": 42 * MIB, "num_ooms": 1}


def test_streams_are_kept_where_there_are_several(tmp_path):
    both = [*entries(EVENTS[:2]), *entries([("segment_alloc", 2 * MIB, 9 * MIB), ("alloc", 8, 9 * MIB)], stream=77)]
    assert read_history(save(tmp_path, both)).streams == (0, 77)
    assert read_history(save(tmp_path, entries())).streams is None


def test_blocks_that_another_stream_holds_are_counted(tmp_path):
    """record_stream: the free completes only later."""
    used = [*EVENTS[:5], ("alloc", 8, 512), EVENTS[5]]
    assert read_history(save(tmp_path, entries(used))).late_free_count == 1
    assert read_history(save(tmp_path, entries())).late_free_count == 0


def test_a_failure_after_which_nothing_was_allocated_ended_the_run(tmp_path):
    history = read_history(save(tmp_path, ours([*EVENTS, ("oom", 90 * MIB, 0)])))
    assert history.caught == {3}
    report = replay_report(save(tmp_path, ours([*EVENTS, ("oom", 90 * MIB, 0)])))
    assert (report["oom"]["row"], report["oom"]["size_bytes"], report["num_ooms"]) == (10, 90 * MIB, 2)


def test_the_report_compares_what_was_recorded(tmp_path):
    report = replay_report(save(tmp_path, ours()))
    assert report["segments"] == [2 * MIB, 30 * MIB, 40 * MIB]
    assert report["recorded"] == {
        "peak_requested_bytes": 40 * MIB + 100, "peak_reserved_bytes": 42 * MIB, "num_ooms": 1, "segments_equal": True,
        "equal": True,
    }  # fmt: skip
    wrong = replay_report(save(tmp_path, ours(peak_allocated=40 * MIB)))
    assert wrong["recorded"]["segments_equal"] is True
    assert wrong["recorded"]["equal"] is False


def test_a_pickle_is_refused_unread(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was loaded",))

    path = tmp_path / "snapshot.pickle"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ConfigError, match="a pickle is not read") as caught:
        read_history(path)
    assert "json.dump(pickle.load" in caught.value.hint
    packed = tmp_path / "snapshot.json.gz"
    packed.write_bytes(gzip.compress(pickle.dumps({})))
    with pytest.raises(ConfigError, match="a pickle is not read"):
        read_history(packed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"device_traces": [], "segments": []}, "not a recorded allocator history"),
        ({"cases": []}, "not a recorded allocator history"),
        ([], "not a recorded allocator history"),
        ("text", "not a recorded allocator history"),
        ({"device_traces": [entries(), entries()]}, "several devices"),
        (ours(streams=2), "several streams"),
        ([{**entries()[0], "pool_id": [0, 1]}], "private memory pools"),
        ({"actions": ["alloc"], "events": [[1, 2, 3]]}, "does not parse"),
        ([{"action": "alloc"}], "does not parse"),
        (ours(EVENTS[1:]), "does not begin at the process's first allocation"),
        (ours([*EVENTS[:1], ("free_requested", 8, 0)]), "does not begin at the process's first allocation"),
        (ours([*EVENTS[:2], ("alloc", 8, 99 * MIB)]), "does not begin at the process's first allocation"),
    ],
)
def test_what_is_not_a_whole_history_is_refused(tmp_path, content, message):
    path = save(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_history(path)
    assert caught.value.where == str(path)
    assert caught.value.exit_code == 2


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        read_history(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        read_history(tmp_path / "broken.json")
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(b"{}" * 99)[:-12])
    with pytest.raises(ConfigError, match="cannot read"):
        read_history(tmp_path / "cut.json.gz")


def test_settings_that_do_not_parse_say_where_they_came_from(tmp_path):
    with pytest.raises(ConfigError) as caught:
        replay_report(save(tmp_path, ours()), alloc_conf="backend:cudaMallocAsync")
    assert caught.value.where == "--alloc-conf"
    with pytest.raises(ConfigError) as caught:
        replay_report(save(tmp_path, ours(allocator_settings="x:1")))
    assert caught.value.where == "the recording"
