"""Write down what a CPU kernel allocates in its own order; out come the registry's records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from estimator.scratch.registry import Scratch


@dataclass(slots=True)
class _Taken:
    size_bytes: int
    results_before: int
    extra: dict[str, Any]
    freed_after: int | None = None
    freed_at_results: int | None = None


class Call:
    """The allocations of one call, told step by step.

    `take` is an allocation, `result` says that the next result of the call is allocated now, `free` ends
    allocations; what is not freed lives until the call returns.
    """

    def __init__(self) -> None:
        self._taken: list[_Taken] = []
        self._results = 0
        self._last_result_at = -1
        self._free: list[tuple[int, int, int]] = []

    def take(self, size_bytes: int, **extra: Any) -> int:
        """Allocate; gives a handle for `free`. Sizes of 0 are no allocation. `extra`: further fields of `Scratch`."""
        if size_bytes <= 0:
            return -1
        self._end_waiting()
        self._taken.append(_Taken(size_bytes, self._results, extra))
        return len(self._taken) - 1

    def result(self, count: int = 1) -> None:
        """Say that `count` of the call's results are allocated here."""
        self._end_waiting()
        self._results += count

    def free(self, *handles: int) -> None:
        """End allocations here; it shows where another follows."""
        self._free += [(handle, len(self._taken), self._results) for handle in handles if handle >= 0]

    def passing(self, *sizes: int, **extra: Any) -> None:
        """Allocate and free again, one after the other."""
        for size_bytes in sizes:
            self.free(self.take(size_bytes, **extra))

    def scratch(self) -> list[Scratch]:
        """What has been told, as records."""
        out = []
        for t in self._taken:
            early = t.freed_after == 0 and t.freed_at_results is None
            out.append(
                Scratch(
                    t.size_bytes, "before" if t.results_before == 0 else "after", results_before=t.results_before or None,
                    freed_early=early, freed_after=None if early else t.freed_after, freed_at_results=t.freed_at_results,
                    **t.extra,
                )
            )  # fmt: skip
        return out

    def _end_waiting(self) -> None:
        """An allocation follows: say of what was freed since the last one how long it lasted."""
        for handle, taken, results in self._free:
            entry = self._taken[handle]
            if results > self._taken[taken - 1].results_before:  # a result came between it and its end
                entry.freed_at_results = results
            else:
                entry.freed_after = taken - 1 - handle
        self._free.clear()
