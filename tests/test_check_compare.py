"""What grew between two results: nothing is lost between the figures, whatever they are."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_check import NET, made_up_answer

from estimator.check.compare import Change, compare, compare_answers
from estimator.check.footprint import NO_OP, Footprint, Versions, footprint, modules_at
from estimator.ledger import Category
from estimator.units import MIB

pytestmark = pytest.mark.pure

NAMES = st.sampled_from(["", "a", "a.b", "head", "(root)", "ä|`"])
SIZES = st.integers(min_value=0, max_value=2**50)
OPS = st.dictionaries(NAMES, st.dictionaries(NAMES, SIZES, max_size=3), max_size=3)
MODULES = st.dictionaries(NAMES, OPS, max_size=4)
BUSY = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine fails no test."""
VERSIONS = Versions(batch_estimator="0.1.0", torch="2.13.0", traced_with="2.13.0")
FOOTPRINTS = st.builds(
    Footprint,
    versions=st.just(VERSIONS),
    settings=st.dictionaries(NAMES, st.one_of(st.integers(), st.booleans(), NAMES, st.none()), max_size=3),
    max_batch_size=SIZES,
    peak_bytes=st.fixed_dictionaries({"requested": SIZES, "allocated": SIZES, "device": SIZES}),
    peak_at=st.dictionaries(st.sampled_from(["phase", "module", "op"]), NAMES),
    by_category=st.dictionaries(NAMES, SIZES),
    modules=MODULES,
)


def total(result: Footprint) -> int:
    return sum(result.by_module().values())


@BUSY
@given(FOOTPRINTS, FOOTPRINTS)
def test_changes_of_every_list_sum_to_the_change_of_the_whole(before: Footprint, now: Footprint) -> None:
    """Modules, ops and parts are three views of one sum."""
    difference = compare(before, now)
    for changes in (difference.modules, difference.ops, difference.parts):
        assert sum(c.change_bytes for c in changes) == total(now) - total(before)
    change = sum(now.by_category.values()) - sum(before.by_category.values())
    assert sum(c.change_bytes for c in difference.categories) == change


@BUSY
@given(FOOTPRINTS, FOOTPRINTS)
def test_the_way_back_is_the_same_with_the_other_sign(before: Footprint, now: Footprint) -> None:
    there, back = compare(before, now), compare(now, before)
    for name in ("categories", "modules", "ops"):
        changes = {c.name: c.change_bytes for c in getattr(there, name)}
        assert changes == {c.name: -c.change_bytes for c in getattr(back, name)}
    assert {(c.module, c.op, c.name): c.change_bytes for c in there.parts} == {
        (c.module, c.op, c.name): -c.change_bytes for c in back.parts
    }
    assert there.settings == {name: (old, new) for name, (new, old) in back.settings.items()}


@BUSY
@given(FOOTPRINTS)
def test_a_result_does_not_differ_from_itself(result: Footprint) -> None:
    again = Footprint.model_validate_json(result.model_dump_json())
    difference = compare(result, again)
    assert difference.is_empty
    assert not difference.categories + difference.modules + difference.ops + difference.parts


@BUSY
@given(FOOTPRINTS, FOOTPRINTS)
def test_lists_hold_what_changed_the_largest_first(before: Footprint, now: Footprint) -> None:
    difference = compare(before, now)
    for changes in (difference.categories, difference.modules, difference.ops, difference.parts):
        sizes = [abs(c.change_bytes) for c in changes]
        assert sizes == sorted(sizes, reverse=True)
        assert 0 not in sizes
    same = all(c.change_bytes == 0 for c in difference.peaks) and before.max_batch_size == now.max_batch_size
    moved = any(before.peak_at.get(name, "") != place for name, place in now.peak_at.items())
    changed = moved or any((difference.settings, difference.parts, difference.categories))
    assert difference.is_empty is (same and not changed)


def test_two_answers() -> None:
    """A module that grew by 50 MiB, one that is gone, and one that is new; the peaks grew by 50 - 8 + 1 MiB."""
    now = {key: size for key, size in NET.items() if key[0] != "head"}
    now["encoder.0", "aten.convolution.default", "activations"] += 50 * MIB
    now["top", "aten.mm.default", "temporaries"] = 1 * MIB
    difference = compare_answers(made_up_answer(), made_up_answer(now, largest=60), 16)
    assert [(c.place, c.change_bytes) for c in difference.parts] == [
        ("encoder.0: aten.convolution.default (activations)", 50 * MIB),
        ("head: aten.mm.default (gradients)", -8 * MIB),
        ("top: aten.mm.default (temporaries)", 1 * MIB),
    ]
    assert [(c.name, c.change_bytes) for c in difference.modules] == [
        ("encoder.0", 50 * MIB), ("head", -8 * MIB), ("top", 1 * MIB),
    ]  # fmt: skip
    assert [(c.name, c.change_bytes) for c in difference.ops] == [
        ("aten.convolution.default", 50 * MIB), ("aten.mm.default", -7 * MIB),
    ]  # fmt: skip
    assert [c.name for c in difference.categories] == ["activations", "gradients", "temporaries"]
    assert difference.peak("allocated").change_bytes == difference.peak("device").change_bytes == 43 * MIB
    assert difference.max_batch_size == (64, 60)
    assert not difference.is_empty


def test_changed_settings() -> None:
    before = made_up_answer(settings={"precision": "fp32", "grad_clip": None, "alloc_conf": ""})
    now = made_up_answer(settings={"precision": "amp-bf16", "grad_clip": 1.5})
    difference = compare(footprint(before, before.at(16)), footprint(now, now.at(32), {"image_size": 64}))
    assert difference.settings == {
        "batch_size": (16, 32), "grad_clip": (None, 1.5), "image_size": (None, 64), "precision": ("fp32", "amp-bf16"),
    }  # fmt: skip


def test_the_peaks_parts_sum_to_what_is_requested_there() -> None:
    """What was freed before the peak, or came after it, is not in it."""
    answer = made_up_answer()
    batch = answer.at(16)
    assert sum(footprint(answer, batch).by_module().values()) == batch.peak_requested_bytes == 308 * MIB


def test_parameters_belong_to_the_module_that_has_them() -> None:
    """Whatever op made them; what the optimizer and the batch make stands apart from the root module's own ops."""
    parts = {
        ("m", "aten.empty.default", "parameters"): 5,
        ("", "aten.add.Tensor", "temporaries"): 6,
        ("", "aten.zeros_like.default", "optimizer_state"): 7,
        ("", "aten.to.dtype", "inputs"): 8,
    }
    answer = made_up_answer(parts)
    answer.model.graph.names[1] = "body.weight"
    for number, phase in ((2, "step0.forward"), (3, "step0.optimizer"), (4, "step0.batch")):
        answer.model.ops[number].phase = phase
    assert modules_at(answer, answer.at(1)) == {
        "body": {NO_OP: {"parameters": 5}},
        "(root)": {"aten.add.Tensor": {"temporaries": 6}},
        "(optimizer)": {"aten.zeros_like.default": {"optimizer_state": 7}},
        "(batch)": {"aten.to.dtype": {"inputs": 8}},
    }
    assert len(Category) == 8, "a new category needs a place in the answer's table"


def test_change() -> None:
    assert Change(name="x", before_bytes=3, now_bytes=1).model_dump()["change_bytes"] == -2
