"""A probe and a whole replay say the same of every program."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.allocator import AllocatorConfig, outcome_of, probe, read_history, replay
from estimator.allocator.streams import again_in
from estimator.ledger import Event, Ledger, Outline
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


# Sizes of a program by their numbers, and its steps: each allocates a size or frees the live block at a place.
BODY = st.lists(st.one_of(st.tuples(st.integers(0, 5), st.booleans()), st.integers(0, 30)), max_size=24)


def steps_of(prefix, body, count: int) -> Outline:
    """A program that does the same in each of its steps, with numbers in the place of sizes."""
    ledger, live = Ledger([]), []

    def write(requests) -> None:
        for request in requests:
            if isinstance(request, tuple):
                number, survives = request
                if survives:
                    ledger.may_fail.add(len(ledger.events))
                live.append((len(ledger.events), number))
                ledger.events.append(Event(True, *live[-1]))
            elif live:
                ledger.events.append(Event(False, *live.pop(request % len(live))))

    write(prefix)
    for step in range(count):
        ledger.phases.append((f"step{step}.forward", len(ledger.events)))
        write(body)
    return Outline(ledger)


# Sizes of which two or three fill a segment of the small pool or of the large one.
HALVES = st.one_of(st.integers(500 << 10, MIB), st.integers(MIB + 1, 12 * MIB), st.sampled_from([512, MIB, 20 * MIB]))


@settings(max_examples=600, deadline=None)
@given(
    BODY, BODY, st.integers(1, 5), st.lists(st.lists(HALVES, min_size=6, max_size=6), min_size=1, max_size=3),
    st.lists(st.integers(2 * MIB, 120 * MIB), min_size=1, max_size=3),
)  # fmt: skip
def test_of_programs_whose_steps_repeat_whatever_was_played_before(prefix, body, count, fillings, limits):
    outline = steps_of(prefix, body, count)
    for sizes in fillings:
        ledger = outline.filled(sizes)
        for limit in (None, *limits):
            played = replay(ledger, None, limit, may_fail=ledger.may_fail)
            assert probe(ledger, None, limit, may_fail=ledger.may_fail) == outcome_of(played)


def test_a_last_step_that_goes_as_the_one_before_is_not_played_but_counts():
    # Each step takes 30 MiB and 8 MiB and gives both back; the size that may fail is refused twice a step: once, and
    # once more after what is cached was given back.
    outline = steps_of([], [(0, False), (1, True), 0, 0, (2, False), 0], 4)
    ledger = outline.filled([30 * MIB, 60 * MIB, 8 * MIB])
    found = probe(ledger, None, 64 * MIB, may_fail=ledger.may_fail)
    assert found == outcome_of(replay(ledger, None, 64 * MIB, may_fail=ledger.may_fail))
    assert (found.fits, found.num_survived) == (True, 4)
    again = again_in(outline)
    assert (again.before, again.last) == (len(ledger.events) // 2, len(ledger.events) // 4 * 3)


def test_steps_that_are_not_alike_are_no_repetition():
    alike = steps_of([], [(0, False), 0], 3)
    assert again_in(alike) is not None
    other = Ledger(list(alike.filled([0, 1]).events), list(alike.phases))
    other.events[-1] = other.events[-1]._replace(size_bytes=1)  # another size's number
    assert again_in(Outline(other)) is None


def test_a_small_segment_may_come_to_lie_above_those_before_it():
    # 10 MiB lie on top, a full small segment below. The 10 MiB are given back to make room for 60, which lie lowest: the
    # next small segment takes the hole on top, so that of its pool's two free halves of a segment the older is the lower.
    requests = [(0, False), (1, False), (1, False), 0, (2, False), (1, False), (1, False), 0, 1, (1, False)]
    outline = steps_of(requests, [(1, False), 1], 3)
    ledger = outline.filled([10 * MIB, MIB, 60 * MIB])
    for limit in (None, 66 * MIB, 66 * MIB):
        assert probe(ledger, None, limit) == outcome_of(replay(ledger, None, limit))
    assert probe(ledger, None, 66 * MIB).num_refused == 1
