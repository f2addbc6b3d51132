"""Recorded histories of the real allocator, reproduced to the byte."""

import gzip
import json
from collections import Counter
from functools import cache
from itertools import repeat
from pathlib import Path

import pytest

from estimator.allocator import Allocator, AllocatorConfig, Replayer, read_history, replay
from estimator.allocator.command import replay_report
from estimator.units import GIB, MIB

pytestmark = pytest.mark.pure

TRACES = Path(__file__).parent.parent / "data" / "traces"
FILES = sorted(TRACES.glob("*.json.gz"))
# PyTorch's memory snapshots do not say what the device had; these recordings were made with:
SNAPSHOT_LIMITS = {"churn-streams": 2 * GIB, "mlp-snapshot-oom": 400 * MIB}


def name(path):
    return path.name.removesuffix(".json.gz")


def limit_of(path):
    return next((limit for start, limit in SNAPSHOT_LIMITS.items() if path.name.startswith(start)), None)


@cache
def content(path):
    return json.loads(gzip.decompress(path.read_bytes()))


@cache
def played(path):
    """A recording and its replay; read only."""
    history = read_history(path)
    config = AllocatorConfig.from_string(history.settings)
    player = Replayer(Allocator(config, history.limit_bytes or limit_of(path), total_bytes=history.total_bytes))
    player.play(history.ledger, streams=history.streams, may_fail=history.caught)
    return history, player


def test_there_is_a_recording_for_every_setting_that_changes_sizes():
    seen = Counter()
    for path in FILES:
        for option in read_history(path).settings.replace("[", ",").split(","):
            seen[option.split(":")[0]] += 1
    for option in (
        "expandable_segments", "max_split_size_mb", "max_non_split_rounding_mb", "roundup_power2_divisions",
        "garbage_collection_threshold", "large_segment_size_mb", "per_process_memory_fraction", "",
    ):  # fmt: skip
        assert seen[option] > 0, option
    assert len(FILES) == 36


@pytest.mark.parametrize("path", FILES, ids=name)
def test_the_same_segments_are_taken_and_given_back_in_the_same_order(path):
    history, player = played(path)
    changes = [event.size_bytes if event.is_growth else -event.size_bytes for event in player.allocator.log]
    assert changes == list(history.segments)
    assert [event.action for event in player.allocator.log] == [
        action for action in actions(path) if action.startswith("segment_")
    ]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_peaks_retries_and_failures_are_those_of_the_recording(path):
    history, player = played(path)
    result = player.result()
    assert {name: getattr(result, name) for name in history.recorded} == history.recorded
    last_is_oom = [action for action in actions(path) if action in ("alloc", "oom")][-1] == "oom"
    assert (result.oom is not None) == last_is_oom


@pytest.mark.parametrize("path", [p for p in FILES if "actions" in content(p)], ids=name)
def test_bytes_at_the_end_are_those_of_the_recording(path):
    """All that ends a run is played: the program of churn-fraction frees after its last failure."""
    recorded = content(path)
    history = read_history(path)
    config = AllocatorConfig.from_string(history.settings)
    end = replay(
        history.ledger, config, history.limit_bytes, total_bytes=history.total_bytes, may_fail=range(len(history.rows))
    ).at_end
    assert (end.requested_bytes, end.allocated_bytes, end.reserved_bytes) == (
        recorded["requested_after"], recorded["allocated_after"], recorded["reserved_after"],
    )  # fmt: skip


class RecordedAddresses:
    """Puts segments where the recording has them."""

    def __init__(self, path):
        self.next = iter([address for action, _, address in rows(path) if action == "segment_alloc"])

    def take(self, size_bytes):
        return next(self.next)

    def give_back(self, address, size_bytes):
        pass


@pytest.mark.parametrize("path", [p for p in FILES if "expandable" not in p.name], ids=name)
def test_every_block_lies_where_it_lay(path):
    """With segments at the recorded addresses every block has its recorded address: no choice was made otherwise.

    Ranges of expandable segments are not recorded, only what was mapped of them.
    """
    history = read_history(path)
    config, limit = AllocatorConfig.from_string(history.settings), history.limit_bytes or limit_of(path)
    allocator = Allocator(config, limit, total_bytes=history.total_bytes)
    allocator.addresses = RecordedAddresses(path)
    blocks, addresses, failed = {}, [], set()
    for event, stream in zip(history.ledger.events, history.streams or repeat(0), strict=False):
        if event.is_alloc:
            block = allocator.malloc(event.size_bytes, stream)
            if block is None:
                failed.add(event.block)
            else:
                blocks[event.block] = block
                addresses.append(block.address)
        elif event.block not in failed:
            allocator.free(blocks.pop(event.block))
    assert addresses == [address for action, _, address in rows(path) if action == "alloc"]


@cache
def rows(path):
    recorded = content(path)
    if "actions" in recorded:
        return [(recorded["actions"][action], size, address) for action, size, address in recorded["events"]]
    return [(e["action"], e["size"], e.get("addr")) for e in recorded["device_traces"][0]]


def actions(path):
    return [action for action, _, _ in rows(path)]


def test_phases_have_their_own_peaks():
    """Held against the statistics that the run itself took at the end of each phase."""
    truth = json.loads((TRACES.parents[2] / "benchmarks" / "truth" / "simulated_sm80.json").read_text())
    runs = {f"{case['case']}@{run['batch']}": run["phases"] for case in truth["cases"] for run in case["runs"]}
    checked = 0
    for path in FILES:
        expected = runs.get(path.name.removesuffix("-sm80.json.gz"))
        if expected is None:
            continue
        columns = ("phase", "peak_requested", "peak_allocated", "peak_reserved", "allocated_after")
        places = [truth["phase_columns"].index(column) for column in columns]
        result = played(path)[1].result()
        assert [
            (p.name, p.peak_requested_bytes, p.peak_allocated_bytes, p.peak_reserved_bytes, p.end.allocated_bytes)
            for p in result.phases
        ] == [tuple(row[place] for place in places) for row in expected]
        checked += 1
    assert checked == 8


def test_the_report_says_that_it_equals_the_recording():
    report = replay_report(TRACES / "tinygpt-amp-adamw@82-limited-sm80.json.gz")
    assert report["recorded"]["equal"] is True
    assert report["recorded"]["segments_equal"] is True
    assert report["oom"] is None
    assert report["num_alloc_retries"] == 1
    assert report["limit_bytes"] == 24 * GIB
    assert report["peak_reserved_bytes"] == 25_631_391_744
    assert len(report["segments"]) == 107
    json.dumps(report)


def test_under_a_lower_limit_the_report_says_where_it_ran_out():
    path = TRACES / "tinygpt-amp-adamw@8-sm80.json.gz"
    report = replay_report(path, limit_bytes=2 * GIB)
    oom = report["oom"]
    assert oom["phase"] == "step0.backward"
    assert rows(path)[oom["row"]][:2] == ("alloc", oom["size_bytes"])
    assert read_history(path).ledger.events[oom["event"]].size_bytes == oom["size_bytes"]
    assert report["peak_reserved_bytes"] <= 2 * GIB
    assert report["recorded"]["equal"] is False


def test_other_settings_can_be_tried_on_a_recording():
    """Expandable segments leave less unused: the settings given win over the recording's own."""
    plain = replay_report(TRACES / "tinygpt-amp-adamw@8-sm80.json.gz")
    expandable = replay_report(TRACES / "tinygpt-amp-adamw@8-sm80.json.gz", alloc_conf="expandable_segments:True")
    real = replay_report(TRACES / "tinygpt-expandable.json.gz")
    assert expandable["peak_reserved_bytes"] == real["peak_reserved_bytes"] < plain["peak_reserved_bytes"]


def test_a_run_that_survived_its_failures_goes_on_only_with_them_allowed():
    history = read_history(TRACES / "churn-default.json.gz")
    assert len(history.caught) == 9
    config = AllocatorConfig.from_string(history.settings)
    through = replay(history.ledger, config, history.limit_bytes, may_fail=history.caught)
    assert (through.oom, through.num_ooms) == (None, 9)
    stopped = replay(history.ledger, config, history.limit_bytes)
    assert stopped.oom is not None
    assert stopped.oom.event == min(history.caught)
    assert stopped.num_ooms == 1


def test_the_order_of_addresses_matters():
    """Why `addresses` is an argument: mirrored ties reserve less in one recording, and overrun the limit in another."""
    small = read_history(TRACES / "tinygpt-amp-adamw@8-sm80.json.gz")
    down, up = (replay(small.ledger, addresses=order) for order in ("descending", "ascending"))
    assert down.peak_reserved_bytes - up.peak_reserved_bytes == 524_288_000
    limited = read_history(TRACES / "resnet50-amp-sgd@564-limited-sm80.json.gz")
    assert replay(limited.ledger, limit_bytes=24 * GIB).fits
    assert not replay(limited.ledger, limit_bytes=24 * GIB, addresses="ascending").fits
