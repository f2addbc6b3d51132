"""Do two traces tell the same story at two batch sizes: the same ops, the same storages born and dying in order?"""

from __future__ import annotations

from dataclasses import dataclass

from estimator.graph import StepGraph


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two traces part: text for a person, "" where they do not."""

    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.text)

    @property
    def in_batch(self) -> bool:
        """Whether it is in the making of a batch."""
        return ".batch" in self.text

    @property
    def hint(self) -> str:
        """What to do about it."""
        if self.in_batch:
            return (
                "make all samples in one tensor: on a CPU the making of the batch is part of the program, and one that "
                "goes sample by sample is another for each batch size"
            )
        return "make the step's structure independent of the batch size"


def compare(first: StepGraph, second: StepGraph) -> Parting:
    """Find the first place where two traces differ in structure; sizes may differ, order and ops may not.

    Of two traces with different numbers of steps the steps that both have are compared.
    """
    steps = min(first.steps, second.steps)
    first, second = (g if g.steps == steps else g.first_steps(steps) for g in (first, second))
    sizes = f"batch sizes {first.batch_size} and {second.batch_size}"
    for index, (a, b) in enumerate(zip(first.ops, second.ops, strict=False)):
        if a.name != b.name:
            phase = a.phase if a.phase == b.phase else f"{a.phase} and {b.phase}"
            return Parting(f"{sizes} part at op {index} of {phase}, module {a.module!r}: {a.name} and {b.name}")
    if len(first.ops) != len(second.ops):
        longer = max(first, second, key=lambda g: len(g.ops))
        op = longer.ops[min(len(first.ops), len(second.ops))]
        return Parting(
            f"{sizes} give {len(first.ops)} and {len(second.ops)} ops; the longer goes on with {op.name} in "
            f"{op.phase}, module {op.module!r}"
        )
    for index, (x, y) in enumerate(zip(first.events, second.events, strict=False)):
        if (x.is_alloc, x.storage, x.op) != (y.is_alloc, y.storage, y.op):
            op = first.ops[max(x.op, 0)]
            return Parting(
                f"{sizes} part at event {index} near {op.name} in {op.phase}, module {op.module!r}: storages live "
                "differently long"
            )
    if len(first.events) != len(second.events):
        return Parting(f"{sizes} give {len(first.events)} and {len(second.events)} allocator events")
    return Parting()
