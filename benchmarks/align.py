"""Align two sequences by the fewest insertions and deletions. Needs nothing but the language.

Source: E. W. Myers, "An O(ND) Difference Algorithm and Its Variations", Algorithmica 1 (1986), the greedy form.
`difflib` looks for long runs instead and takes minutes on allocator histories, where a few sizes repeat thousands of
times.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Hunk(NamedTuple):
    """Where two sequences part: `left[left_start:left_end]` stands in the place of `right[right_start:right_end]`."""

    left_start: int
    left_end: int
    right_start: int
    right_end: int


def matches(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Pair the positions of a longest common subsequence, in order."""
    start, left_end, right_end = 0, len(left), len(right)
    while start < min(left_end, right_end) and left[start] == right[start]:
        start += 1
    while left_end > start and right_end > start and left[left_end - 1] == right[right_end - 1]:
        left_end, right_end = left_end - 1, right_end - 1
    middle = [(i + start, j + start) for i, j in _myers(left[start:left_end], right[start:right_end])]
    tail = zip(range(left_end, len(left)), range(right_end, len(right)), strict=True)
    return [(i, i) for i in range(start)] + middle + list(tail)


def hunks(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[Hunk]:
    """The stretches in which the sequences differ, in order."""
    found = []
    i = j = 0
    for a, b in [*matches(left, right), (len(left), len(right))]:
        if (a, b) != (i, j):
            found.append(Hunk(i, a, j, b))
        i, j = a + 1, b + 1
    return found


def _myers(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[tuple[int, int]]:
    n, m = len(left), len(right)
    if not n or not m:
        return []
    reach = {1: 0}  # furthest position in `left` on each diagonal (left - right)
    rounds: list[dict[int, int]] = []
    for d in range(n + m + 1):
        done = False
        now: dict[int, int] = {}
        for k in range(-d, d + 1, 2):
            if k < -m or k > n:
                continue
            down, across = reach.get(k + 1, -1), reach.get(k - 1, -2) + 1
            x = max(down, across)
            y = x - k
            while x < n and y < m and left[x] == right[y]:
                x, y = x + 1, y + 1
            now[k] = x
            if x >= n and y >= m:
                done = True
                break
        rounds.append(reach)
        reach = now
        if done:
            break
    return _walk_back(rounds, n, m)


def _walk_back(rounds: list[dict[int, int]], n: int, m: int) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    x, y = n, m
    for d in range(len(rounds) - 1, -1, -1):
        reach, k = rounds[d], x - y
        down, across = reach.get(k + 1, -1), reach.get(k - 1, -2) + 1
        before_x = max(down, across)
        before_y = before_x - k
        while x > before_x and y > before_y:
            x, y = x - 1, y - 1
            pairs.append((x, y))
        if d == 0:
            break
        x, y = (before_x, before_y - 1) if down >= across else (before_x - 1, before_y)
    return pairs[::-1]
