"""What grew and what shrank between two results: by peak, category, module and op."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, computed_field

from estimator.check.footprint import NO_OP, Footprint, footprint

if TYPE_CHECKING:
    from estimator.result import Estimate


class Change(BaseModel):
    """One figure before and now; what is not there takes 0 bytes."""

    model_config = ConfigDict(frozen=True)

    name: str
    before_bytes: int
    now_bytes: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def change_bytes(self) -> int:
        """Positive where it grew."""
        return self.now_bytes - self.before_bytes


class PartChange(Change):
    """A change of what one op of one module holds at the peak; `name` is the category."""

    module: str
    op: str

    @property
    def place(self) -> str:
        """Module, op and category in words."""
        return part_name(self.module, self.op, self.name)


class Difference(BaseModel):
    """Two results compared. Lists hold only what differs, the largest change first; equal results have empty ones."""

    model_config = ConfigDict(frozen=True)

    settings: dict[str, tuple[Any, Any]]
    """Settings that are not the same: (before, now); None where one was not given."""
    max_batch_size: tuple[int, int]
    """Before and now."""
    peaks: tuple[Change, ...]
    """All of them, changed or not, in their order."""
    peak_at: dict[str, tuple[str, str]]
    """Phase, module and op of the peak where it has moved."""
    categories: tuple[Change, ...]
    modules: tuple[Change, ...]
    ops: tuple[Change, ...]
    parts: tuple[PartChange, ...]
    """By module, op and category: the finest there is. They sum to the change of what was requested at the peak."""

    @property
    def is_empty(self) -> bool:
        """Whether the two are the same in every figure and setting."""
        moved = self.settings or self.peak_at or self.categories or self.parts
        return not moved and len(set(self.max_batch_size)) == 1 and not any(p.change_bytes for p in self.peaks)

    def peak(self, name: str) -> Change:
        """One of `peaks` by name."""
        return next(p for p in self.peaks if p.name == name)


def part_name(module: str, op: str, category: str) -> str:
    """`layer4.conv: aten.convolution.default (activations)`, or `layer4.conv: parameters`."""
    return f"{module}: {category}" if op == NO_OP else f"{module}: {op} ({category})"


def compare(before: Footprint, now: Footprint) -> Difference:
    """Compare two footprints; neither versions nor tolerance matter here."""
    return Difference(
        settings={
            name: (before.settings.get(name), now.settings.get(name))
            for name in sorted(before.settings.keys() | now.settings.keys())
            if before.settings.get(name) != now.settings.get(name)
        },
        max_batch_size=(before.max_batch_size, now.max_batch_size),
        peaks=tuple(_changes(before.peak_bytes, now.peak_bytes)),
        peak_at={
            name: (before.peak_at.get(name, ""), place)
            for name, place in now.peak_at.items()
            if before.peak_at.get(name, "") != place
        },
        categories=_largest_first(_changes(before.by_category, now.by_category)),
        modules=_largest_first(_changes(before.by_module(), now.by_module())),
        ops=_largest_first(_changes(before.by_op(), now.by_op())),
        parts=_part_changes(before, now),
    )


def compare_answers(before: Estimate, now: Estimate, batch_size: int) -> Difference:
    """Compare two answers of `estimator.estimate` at one batch size."""
    return compare(footprint(before, before.at(batch_size)), footprint(now, now.at(batch_size)))


def _changes(before: Mapping[str, int], now: Mapping[str, int]) -> Iterable[Change]:
    names = [*now, *(name for name in before if name not in now)]
    return (Change(name=n, before_bytes=before.get(n, 0), now_bytes=now.get(n, 0)) for n in names)


def _largest_first(changes: Iterable[Change]) -> tuple[Change, ...]:
    return tuple(sorted((c for c in changes if c.change_bytes), key=lambda c: (-abs(c.change_bytes), c.name)))


def _part_changes(before: Footprint, now: Footprint) -> tuple[PartChange, ...]:
    old, new = _parts(before), _parts(now)
    changes = (
        PartChange(module=module, op=op, name=name, before_bytes=old.get(key, 0), now_bytes=new.get(key, 0))
        for key in old.keys() | new.keys()
        for module, op, name in [key]
        if old.get(key, 0) != new.get(key, 0)
    )
    return tuple(sorted(changes, key=lambda c: (-abs(c.change_bytes), c.module, c.op, c.name)))


def _parts(result: Footprint) -> dict[tuple[str, str, str], int]:
    return {
        (module, op, name): size
        for module, ops in result.modules.items()
        for op, parts in ops.items()
        for name, size in parts.items()
    }
