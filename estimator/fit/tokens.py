"""Tokens that were not traced: each is the last traced one told again, its sizes on the line through the last two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from estimator.errors import FitError
from estimator.graph import StepGraph

MOST_TOLD = 40
"""Most tokens that are told between the last traced one and the last of all, evenly apart; the last is always told.

Sizes lie on lines, so the requested peak is that of all tokens. `Bound:` the reserved bytes may be off by how the
tokens left out would have cut the allocator's segments.
"""
PlanEntry = tuple[str, int, int]


class Growth(NamedTuple):
    """One generation: which part of the plan is its last traced token, and how many tokens follow it."""

    prefix: str
    plan: tuple[PlanEntry, ...]
    """The entries of the model's plan that write the last traced token."""
    ends_at: int
    """Index in the plan before which the further tokens are told."""
    pairs: tuple[tuple[int, int], ...]
    """Storages born in the token before the last traced one, and their counterparts in the last."""
    ops: dict[int, int]
    """Ops of the last traced token and their counterparts in the one before."""
    first: int
    """Number of the first token to be told."""
    last: int

    @property
    def phase(self) -> str:
        """Name of the phase that the told tokens make up."""
        return f"{self.prefix}.token{self.first}-{self.last}"

    def told(self) -> Sequence[int]:
        """Numbers of the tokens that are told: all, or where these are too many every so-manieth and the last."""
        stride = max(1, -(-(self.last - self.first) // MOST_TOLD))
        return [*range(self.first, self.last, stride), self.last]


def growths(graph: StepGraph, plan: Sequence[PlanEntry]) -> Iterator[Growth]:
    """The generations of a trace that go on beyond its last token.

    Raises:
        FitError: the last two tokens that were traced are not the same program.
    """
    names = [name for name, _ in graph.phases]
    for prefix, last in graph.facts.get("generated", {}).items():
        tokens = [name for name in names if name.startswith(f"{prefix}.token")]
        traced = len(tokens)
        before, after = f"{prefix}.token{traced - 1}", f"{prefix}.token{traced}"
        births, ops = zip(*(_within(graph, name) for name in (before, after)), strict=True)
        _check_alike(graph, before, after)
        begin = plan.index(("phase", names.index(after), 0))
        end = plan.index(("phase", names.index(f"{prefix}.end"), 0))
        if last > traced:
            yield Growth(
                prefix,
                tuple(plan[begin + 1 : end]),
                end,
                tuple(zip(*births, strict=True)),
                dict(zip(ops[1], ops[0], strict=True)),
                traced + 1,
                last,
            )


def _span(graph: StepGraph, phase: str) -> tuple[int, int]:
    number = [name for name, _ in graph.phases].index(phase)
    return graph.phases[number][1], graph.phases[number + 1][1]


def _within(graph: StepGraph, phase: str) -> tuple[list[int], list[int]]:
    """Storages born in a phase, and its ops."""
    begin, end = _span(graph, phase)
    births = [e.storage for e in graph.events[begin:end] if e.is_alloc]
    return births, [index for index, op in enumerate(graph.ops) if op.phase == phase]


def _check_alike(graph: StepGraph, before: str, after: str) -> None:
    """Check that two tokens ask and free alike, relative to the token before each."""
    found = []
    for phase in (before, after):
        prefix, number = phase.rsplit("token", 1)
        earlier = f"{prefix}token{int(number) - 1}"
        births, ops = _within(graph, phase)
        place = {s: (phase == name, k) for name in (earlier, phase) for k, s in enumerate(_within(graph, name)[0])}
        begin, end = _span(graph, phase)
        life = [(e.is_alloc, place.get(e.storage, e.storage)) for e in graph.events[begin:end]]
        found.append((life, [graph.ops[index].name for index in ops], len(births)))
    if found[0] != found[1]:
        raise FitError(
            "the tokens of the generation are not the same program",
            got=f"{before} and {after} run different ops, or keep different tensors",
            hint="generate with a loop that does the same for each token",
        )
