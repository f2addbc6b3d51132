"""A probe and a whole replay say the same of every program."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.allocator import AllocatorConfig, outcome_of, probe, read_history, replay
from estimator.ledger import Event, Ledger
from estimator.units import MIB

pytestmark = pytest.mark.pure

TRACES = Path(__file__).parent.parent / "data" / "traces"
ON_ONE_STREAM = [path for path in sorted(TRACES.glob("*.json.gz")) if not any(read_history(path).streams or ())]
TOTAL = 300 * MIB
CONFIGS = [
    AllocatorConfig.from_string(text)
    for text in (
        "",
        "large_segment_size_mb:40",
        "roundup_power2_divisions:1",
        "expandable_segments:True",
        "max_split_size_mb:24",
        "roundup_power2_divisions:4",
        "garbage_collection_threshold:0.4,per_process_memory_fraction:0.7",
    )
]
SIZES = st.one_of(
    st.integers(0, MIB),
    st.integers(MIB, 60 * MIB),
    st.sampled_from([512, MIB, MIB + 1, 2 * MIB, 10 * MIB, 10 * MIB + 1, 20 * MIB, 24 * MIB]),
)
# A size asks for memory, and whether the program survives where there is none; a place frees the live block there.
STEPS = st.lists(st.one_of(st.tuples(SIZES, st.booleans()), st.integers(0, 30)), max_size=80)


def program(steps) -> Ledger:
    ledger, live = Ledger([]), []
    for step in steps:
        if isinstance(step, tuple):
            size, survives = step
            if survives:
                ledger.may_fail.add(len(ledger.events))
            live.append((len(ledger.events), size))
            ledger.events.append(Event(True, *live[-1]))
        elif live:
            ledger.events.append(Event(False, *live.pop(step % len(live))))
    return ledger


@settings(max_examples=400, deadline=None)
@given(STEPS, st.sampled_from(CONFIGS), st.one_of(st.none(), st.integers(0, 300 * MIB)))
def test_a_probe_says_what_a_replay_comes_to(steps, config, limit):
    ledger = program(steps)
    played = replay(ledger, config, limit, total_bytes=TOTAL, may_fail=ledger.may_fail)
    assert probe(ledger, config, limit, total_bytes=TOTAL, may_fail=ledger.may_fail) == outcome_of(played)


@pytest.mark.parametrize("path", ON_ONE_STREAM, ids=lambda path: path.name.removesuffix(".json.gz"))
def test_of_recorded_programs_too_with_room_and_without(path):
    history = read_history(path)
    ledger, config = history.ledger, AllocatorConfig.from_string(history.settings)
    total = history.total_bytes or TOTAL
    without = replay(ledger, config, total_bytes=total, may_fail=history.caught)
    for limit in (None, *(without.peak_reserved_bytes * percent // 100 for percent in (100, 97, 90, 80, 60))):
        played = replay(ledger, config, limit, total_bytes=total, may_fail=history.caught)
        assert probe(ledger, config, limit, total_bytes=total, may_fail=history.caught) == outcome_of(played)


def test_both_kinds_of_recording_are_there():
    plain = [path for path in ON_ONE_STREAM if not read_history(path).settings]
    assert len(plain) >= 10
    assert len(ON_ONE_STREAM) > len(plain)
