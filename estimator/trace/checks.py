"""Checks that raise where data are bad: a step that trains passes them, so what they ask has one answer.

`if not valid.all(): raise ValueError(...)`, `assert (lengths > 0).all()`: torch's own distributions and losses ask so,
and so do people. Which answer lets the program go on is read from the statement that asks.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

from estimator.trace.places import is_machinery


class _Span(NamedTuple):
    """Where an expression lies: (line, column) of its first character and behind its last; columns in bytes."""

    start: tuple[int, int]
    end: tuple[int, int]

    def holds(self, other: _Span) -> bool:
        return self.start <= other.start and other.end <= self.end


class _Question(NamedTuple):
    """One expression whose truth a check asks for, and the truth with which the program goes on."""

    span: _Span
    answer: bool
    is_comparison: bool


_TRUTHS = frozenset({torch.ops.aten.equal.default, torch.ops.aten.is_nonzero.default})


def asks_for_truth(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether a call that reads values reads a yes or a no."""
    return func in _TRUTHS or (func is torch.ops.aten._local_scalar_dense.default and args[0].dtype is torch.bool)


def passing_answer() -> bool | None:
    """What the Python statement that now asks for a tensor's truth must hear to go on; None where it is no check.

    A check is an `assert`, or an `if` one of whose branches does nothing but raise, outside of any `try` that could catch
    it. A function that does nothing with the truth but return it (`return bool(x)`) asks for its caller.
    """
    frame = _of_the_program(sys._getframe(1))
    while frame is not None:
        file, line = frame.f_code.co_filename, frame.f_lineno
        if not any(span.start[0] <= line <= span.end[0] for span in _read(file).returned):
            return _answer(frame)
        frame = _of_the_program(frame.f_back)
    return None


def _of_the_program(frame: FrameType | None) -> FrameType | None:
    while frame is not None and is_machinery(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def _answer(frame: FrameType) -> bool | None:
    line = frame.f_lineno
    asked = [q for q in _read(frame.f_code.co_filename).questions if q.span.start[0] <= line <= q.span.end[0]]
    at = _position(frame.f_code, frame.f_lasti)
    # The jump behind a test stands at the test or at its statement, as Python's version has it; what a part of a
    # comparison is asked for is a number to it and not the comparison's truth.
    asked = [q for q in asked if not q.is_comparison or (at is not None and at.holds(q.span))]
    if at is not None:
        asked = [q for q in asked if q.span.holds(at) or at.holds(q.span)]
    answers = {q.answer for q in asked}
    return answers.pop() if len(answers) == 1 else None


def _position(code: CodeType, offset: int) -> _Span | None:
    """Source of the instruction at an offset, where Python keeps it (3.11)."""
    if not hasattr(code, "co_positions"):
        return None
    line, end_line, column, end_column = next(islice(code.co_positions(), offset // 2, None), (None,) * 4)
    if line is None or end_line is None or column is None or end_column is None:
        return None
    return _Span((line, column), (end_line, end_column))


class _File(NamedTuple):
    """What a file's checks ask, and where it returns the truth of something and nothing else."""

    questions: tuple[_Question, ...] = ()
    returned: tuple[_Span, ...] = ()


@lru_cache(maxsize=64)
def _read(file: str) -> _File:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return _File()
    returns = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    calls = [v for v in returns if isinstance(v, ast.Call) and isinstance(v.func, ast.Name) and v.func.id == "bool"]
    return _File(tuple(_in_statements(tree, caught=False)), tuple(_span(call) for call in calls))


def _span(node: ast.expr) -> _Span:
    end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
    return _Span((node.lineno, node.col_offset), (end_line, end_column))


def _in_statements(node: ast.AST, caught: bool) -> Iterator[_Question]:
    if not caught and isinstance(node, ast.Assert):
        yield from _asked(node.test, True)
    if not caught and isinstance(node, ast.If) and _raises(node.body) != _raises(node.orelse):
        yield from _asked(node.test, not _raises(node.body))
    for child in ast.iter_child_nodes(node):
        in_try = isinstance(node, ast.Try) and bool(node.handlers) and child in node.body
        new_scope = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        yield from _in_statements(child, in_try or (caught and not new_scope))


def _raises(body: list[ast.stmt]) -> bool:
    """Whether a branch ends in an exception, and does nothing before it but put words together."""
    return bool(body) and isinstance(body[-1], ast.Raise) and all(isinstance(s, ast.Assign) for s in body[:-1])


def _asked(test: ast.expr, wanted: bool) -> Iterator[_Question]:
    """The expressions whose truth decides a test, each with what makes for the wanted outcome."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield from _asked(test.operand, not wanted)
    elif isinstance(test, ast.BoolOp):
        for value in test.values:
            yield from _asked(value, wanted)
    else:
        yield _Question(_span(test), wanted, isinstance(test, ast.Compare))
