"""The registry: one rule an op. A rule is a pure function of shapes and the target; needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from estimator.device import Target
from estimator.graph import Op

Confidence = Literal["exact", "modelled", "assumed"]


class Scratch(NamedTuple):
    """One hidden allocation of one call.

    `when` is its place in the call's own order: before the call's results are allocated, or after.
    It is freed when the call returns, unless `key` is set: then it is kept for the life of the process, is
    made only once per key, and is shared by all calls that name it (a cuBLAS workspace, say).
    `low_bytes` and `high_bytes` bound it where the rule is not exact.
    """

    size_bytes: int
    when: Literal["before", "after"] = "after"
    key: str | None = None
    confidence: Confidence = "exact"
    low_bytes: int | None = None
    high_bytes: int | None = None
    freed_early: bool = False
    """Freed before the call's next allocation: it never lies beside what follows it in the call."""
    freed_after: int | None = None
    """Where set: freed before the first allocation (results included) behind the next `freed_after` entries of the
    call, so it lies beside those entries but not beside later ones. 0 says the same as `freed_early`."""
    result: int | None = None
    """Where set: no block of its own. The storage of the call's result number `result` has `size_bytes` in the place
    of what its shape needs, for as long as that storage lives (a loss whose storage is that of the unreduced loss)."""
    results_before: int | None = None
    """How many of the call's results are allocated before this one; None: none or all of them, as `when` says."""
    freed_at_results: int | None = None
    """Where set: freed as soon as this many of the call's results are allocated (a copy made for one of a list)."""
    may_fail: bool = False
    """The caller survives OutOfMemoryError here: cuDNN takes its next plan, which needs less."""


Rule = Callable[[Op, Target], Iterable[Scratch]]
RULES: dict[str, Rule] = {}
"""Rules for CUDA kernels."""
CPU_RULES: dict[str, Rule] = {}
"""Rules for CPU kernels."""
_OF_KIND = {"cuda": RULES, "cpu": CPU_RULES}


def rule(*names: str, kind: Literal["cuda", "cpu"] = "cuda") -> Callable[[Rule], Rule]:
    """Register a rule for op names such as `aten.mm.default`; one op has one rule on a kind of device.

    Raises:
        ValueError: a name has a rule already.
    """
    rules = _OF_KIND[kind]

    def register(function: Rule) -> Rule:
        for name in names:
            if name in rules:
                raise ValueError(f"{name} has a scratch rule already: {rules[name].__qualname__}")
            rules[name] = function
        return function

    return register


def has_rule(name: str, target: Target) -> bool:
    """Whether anything is known of what the op called `name` allocates on the target besides its results."""
    return name in _OF_KIND[target.device.kind]


def scratch_of(op: Op, target: Target) -> tuple[Scratch, ...]:
    """What `op` allocates on `target` besides its results, in order; zero-byte entries are left out."""
    found = _OF_KIND[target.device.kind].get(op.name)
    return () if found is None else tuple(s for s in found(op, target) if s.size_bytes > 0)
