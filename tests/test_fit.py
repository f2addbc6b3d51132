"""Fitting: exact curves through calibration points, alignment of traces, ledgers at other batch sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.errors import FitError
from estimator.fit import compare, fit
from estimator.fit.calls import Calls
from estimator.fit.lines import Curve, curve_through, interpolate, interpolation
from estimator.fit.writer import Chosen
from estimator.graph import Op, StepGraph, StorageEvent, TensorSpec
from estimator.ledger import Category
from estimator.scratch import Scratch

pytestmark = pytest.mark.pure


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 40), st.integers(1, 1 << 20))
def test_a_line_through_two_points_is_exact_everywhere(a: int, c: int, n: int) -> None:
    curve = curve_through((4, 8), (a + 4 * c, a + 8 * c))
    assert curve.at(n) == a + c * n


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 30), st.integers(0, 1 << 20), st.integers(1, 1 << 16))
def test_a_parabola_through_three_points_is_exact_everywhere(a: int, b: int, q: int, n: int) -> None:
    sizes = (4, 8, 37)
    curve = curve_through(sizes, [a + b * x + q * x * x for x in sizes])
    assert curve.at(n) == a + b * n + q * n * n


def test_three_points_on_a_line_stay_a_line() -> None:
    assert curve_through((4, 8, 100), (40, 80, 1000)) == Curve(Fraction(0), Fraction(10))


def test_arguments_follow_a_line_number_by_number() -> None:
    first = (TensorSpec("float32", (4, 3), (3, 1), 7), 4 * 3, "mean", True, None)
    second = (TensorSpec("float32", (8, 3), (3, 1), 7), 8 * 3, "mean", True, None)
    assert interpolate(first, second, (4, 8), 10) == (TensorSpec("float32", (10, 3), (3, 1), 7), 30, "mean", True, None)


def test_arguments_that_differ_in_kind_do_not_fit() -> None:
    with pytest.raises(FitError, match="differ"):
        interpolate(("sum",), ("mean",), (4, 8), 10)


@st.composite
def arguments_at_two_sizes(draw: st.DrawFn, depth: int = 2) -> tuple[object, object]:
    kind = draw(st.integers(0, 5 if depth else 3))
    if kind == 0:
        return draw(st.tuples(st.integers(-9, 99), st.integers(-9, 99)))
    if kind == 1:
        return draw(st.tuples(st.booleans(), st.integers(0, 2)))
    if kind == 2:
        return draw(st.tuples(st.floats(0, 9), st.floats(0, 9)))
    if kind == 3:
        same = draw(st.sampled_from(["mean", None, True, (), 3]))
        return same, same
    if kind == 4:
        shapes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=3))
        first, second = (tuple(pair[i] for pair in shapes) for i in (0, 1))
        return TensorSpec("float32", first, first, 7), TensorSpec("float32", second, second, 7)
    pairs = draw(st.lists(arguments_at_two_sizes(depth - 1), max_size=3))
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)


@given(arguments_at_two_sizes(), st.integers(1, 99))
def test_an_interpolation_says_what_interpolate_says(pair: tuple[object, object], n: int) -> None:
    first, second = pair
    found = interpolation(first, second, (4, 8))
    assert (first if found is None else found(n)) == interpolate(first, second, (4, 8), n)



def graph_of(n: int, *, extra: bool = False) -> StepGraph:
    """Two steps of a program: a weight of 100 B, in each step an activation of 8n B that lives until the next step."""
    graph = StepGraph(n, categories={0: Category.PARAMETER}, facts={})
    graph.events.append(StorageEvent(True, 0, 100, -1))
    graph.phases.append(("model", 0))
    for step in range(2):
        graph.phases.append((f"step{step}.batch", len(graph.events)))
        graph.phases.append((f"step{step}.forward", len(graph.events)))
        if step:
            graph.events.append(StorageEvent(False, step, 8 * n, len(graph.ops) - 1))
        graph.events.append(StorageEvent(True, step + 1, 8 * n, len(graph.ops)))
        spec = TensorSpec("float32", (2 * n,), (1,), step + 1)
        graph.ops.append(
            Op("aten.mm.default", (spec,), {}, (spec,), "layer", f"step{step}.forward", False, len(graph.events))
        )
    if extra:
        graph.ops.append(Op("aten.add.Tensor"))
    return graph


def no_scratch(op: Op) -> tuple[Scratch, ...]:
    return ()


def test_the_ledger_at_another_batch_has_the_sizes_of_that_batch() -> None:
    model = fit([graph_of(4), graph_of(8)], no_scratch, lambda op: False, 2)
    sizes = [(e.is_alloc, e.size_bytes) for e in model.at(10).events]
    # the weight; 80 B in step 0; in step 1 the old 80 B go before the new come
    assert sizes == [(True, 100), (True, 80), (False, 80), (True, 80)]


def test_what_it_says_in_all_is_what_is_live() -> None:
    model = fit([graph_of(4), graph_of(8)], no_scratch, lambda op: False, 2)
    assert (model.fixed_bytes, model.per_sample_bytes, model.degree) == (100, 8, 1)
    assert model.bytes_of(Category.PARAMETER) == (100, 0)
    assert repr(model) == (
        "MemoryModel(3 storages traced at batch sizes 4, 8: 100 bytes and 8 a sample live when the backward pass begins)"
    )


def test_traces_of_different_programs_are_refused() -> None:
    assert "2 and 3 ops" in compare(graph_of(4), graph_of(8, extra=True)).text
    with pytest.raises(FitError, match="not the same program"):
        fit([graph_of(4), graph_of(8, extra=True)], no_scratch, lambda op: False, 2)


def test_scratch_is_asked_for_at_the_shapes_of_the_batch_and_kept_only_by_key() -> None:
    asked: list[tuple[int, ...]] = []

    def scratch(op: Op) -> tuple[Scratch, ...]:
        spec = next(op.tensors())
        asked.append(spec.shape)
        return Scratch(32, "before", key="cublas:main"), Scratch(spec.nbytes, "after")

    model = fit([graph_of(4), graph_of(8)], scratch, lambda op: True, 2)
    events = [(e.is_alloc, e.size_bytes, e.category) for e in model.at(5).events]
    assert asked == [(10,)]  # both calls are alike, so the rule is asked once
    weight = (True, 100, Category.PARAMETER)
    first = [
        (True, 32, Category.WORKSPACE),
        (True, 40, Category.TEMPORARY),
        (True, 40, Category.TEMPORARY),
        (False, 40, Category.TEMPORARY),
    ]
    second = [
        (False, 40, Category.TEMPORARY),
        (True, 40, Category.TEMPORARY),
        (True, 40, Category.TEMPORARY),
        (False, 40, Category.TEMPORARY),
    ]
    assert events == [weight, *first, *second]


def test_a_call_that_no_batch_size_changes_is_asked_once_a_device() -> None:
    asked: list[str] = []

    def rules(card: str) -> Callable[[Op], tuple[Scratch, ...]]:
        def scratch(op: Op) -> tuple[Scratch, ...]:
            asked.append(f"{card} {op.name} {next(op.tensors()).shape}")
            return (Scratch(len(asked)),)

        return scratch

    def ops(n: int) -> list[Op]:
        return [Op("norm", (TensorSpec("float32", (3,), (1,), 0),)), Op("mm", (TensorSpec("float32", (n,), (1,), 1),))]

    calls = Calls(ops(4), ops(8), (4, 8), [0, 1], rules("a"))
    first = [[s.size_bytes for s in records] for records in calls.all_at(5)]
    again = [[s.size_bytes for s in records] for records in calls.all_at(6)]
    assert (first, again) == ([[1], [2]], [[1], [3]])
    calls.asking(rules("b")).all_at(6)
    assert asked == ["a norm (3,)", "a mm (5,)", "a mm (6,)", "b norm (3,)", "b mm (6,)"]


def test_repeated_steps_free_what_the_step_before_left() -> None:
    steps = StepGraph(4, categories={0: Category.PARAMETER})
    whole = graph_of(4)
    steps.ops, steps.events, steps.phases = whole.ops, whole.events[:], whole.phases[:]
    steps.phases.append(("step2.batch", len(steps.events)))
    steps.phases.append(("step2.forward", len(steps.events)))
    steps.events += [StorageEvent(False, 2, 32, 1), StorageEvent(True, 3, 32, 2)]
    steps.ops.append(replace(steps.ops[-1], phase="step2.forward", end=len(steps.events)))
    other = StepGraph(
        8,
        steps.ops,
        [e._replace(size_bytes=e.size_bytes if e.storage == 0 else 64) for e in steps.events],
        steps.phases,
    )
    model = fit([steps, other], no_scratch, lambda op: False, 6)
    ledger = model.at(4)
    live: set[int] = set()
    for e in ledger.events:
        assert (e.block in live) != e.is_alloc
        (live.add if e.is_alloc else live.remove)(e.block)
    assert len(live) == 2  # the weight and one activation, however many steps
    assert [name for name, _ in ledger.phases if name.endswith("forward")] == [f"step{i}.forward" for i in range(6)]


def test_the_bounds_of_single_calls_that_lie_farthest_come_first() -> None:
    """Of call 1 the low end lies 30 MiB off and the high one 4; of call 0 neither lies 2 MiB off, call 2 has none."""
    mib = 1 << 20
    of = {
        "mm": (Scratch(40 * mib, low_bytes=39 * mib, high_bytes=41 * mib),),
        "convolution": (Scratch(30 * mib, low_bytes=0, high_bytes=34 * mib), Scratch(mib)),
        "norm": (Scratch(5),),
    }

    def ops(n: int) -> list[Op]:
        return [Op(name, (TensorSpec("float32", (n,), (1,), i),)) for i, name in enumerate(of)]

    calls = Calls(ops(4), ops(8), (4, 8), [0, 1, 2], lambda op: of[op.name])
    assert calls.bounds_alone(5, 2 * mib) == ["low@1", "high@1"]
    chosen = Chosen.of(5, "low@1")
    taken = [[chosen.bytes_of(s, call) for s in records] for call, records in enumerate(calls.all_at(5))]
    assert taken == [[40 * mib], [0, mib], [5]]
    everywhere = Chosen.of(5, "low")
    assert [everywhere.bytes_of(records[0], call) for call, records in enumerate(calls.all_at(5))] == [39 * mib, 0, 5]
