"""Make the lines of usual convolutions of `estimator/scratch/conv_plans` from measured workspaces.

    python -m benchmarks.conv_sample --capability 8.0 --lines --out lines.jsonl.gz
    python -m benchmarks.conv_lines lines.jsonl.gz --out estimator/scratch/conv_plans/8.0.lines [--into OLD.lines]

Of each layer, pass, kind of type and layout the workspaces over the batch sizes become runs: a run is one form
(`estimator.scratch.conv_forms`) that explains them all, else bytes that grow with the batch. With `--into` they
join the lines of an older file, and stand in for its lines of the same layers. Prints how many runs there are, and how
many workspaces no form explains. `benchmarks.conv_turns` makes the starts of runs exact.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.conv_asker import MULTIPROCESSORS
from benchmarks.conv_forms import CLOSE, MOST_CONSTANT, SMALL, candidates
from benchmarks.conv_sample import BATCHES, LARGE_BATCHES, each_row, read_head
from estimator.scratch.conv_call import CudnnConv
from estimator.scratch.conv_forms import Form, base_bytes, form_bytes
from estimator.scratch.conv_lines import KEY, fingerprint

BASES = ("none", "transposed", "padded", "copied", "unpadded")
LEAST = 3
"""Workspaces in a row, at least, that a plain number or a straight line is taken to explain."""


class Point(NamedTuple):
    batch: int
    call: CudnnConv
    size: int


def read(paths: Sequence[Path]) -> Iterator[tuple[str, list[Point]]]:
    """Each line's fingerprint with its points in the order of their batch sizes; a layer's rows stand together."""
    for _, rows in itertools.groupby(each_row(paths), key=lambda row: row[0]):
        found: dict[str, dict[int, Point]] = collections.defaultdict(dict)
        for _, call, size in rows:
            found[fingerprint(call)][call.x[0]] = Point(call.x[0], call, size)
        for key, points in found.items():
            yield key, [points[batch] for batch in sorted(points)]


def read_lines(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Head and lines of a file of lines."""
    first, *text = path.read_text().splitlines(keepends=True)
    return json.loads(first), text


def preference(form: Form) -> tuple[bool, int, int, str]:
    """Of the forms that explain a run the plainest is taken: copies alone first."""
    base, (what, count) = form
    return what != "bytes", BASES.index(base) if base in BASES else len(BASES), count, f"{base} {what}"


def runs(points: Sequence[Point]) -> Iterator[tuple[int, Form | str]]:
    """Cut the points of one line into runs: the first batch size and what explains it."""
    bases = [base_bytes(point.call) for point in points]
    at = 0
    while at < len(points):
        point = points[at]
        found = candidates(point.call, point.size, bases[at], frozenset())
        named = {form for form in found if _explains(form, point, bases[at])}
        rests = {(name, ("bytes", point.size - copies)) for name, copies in bases[at].items()}
        plain = {(name, (what, rest)) for name, (what, rest) in rests if SMALL < rest < MOST_CONSTANT}
        form, end = _common(named, points, bases, at)
        other, far = _common(named | plain, points, bases, at)
        if far - at >= LEAST and far > end:
            form, end = other, far
        each = _straight(points, at)
        if each is not None and each[2] - at >= LEAST and each[2] > end:
            yield point.batch, f"{each[0]}+{each[1]}"
            at = each[2]
        elif form is not None:
            yield point.batch, form
            at = end
        else:
            yield point.batch, f"{point.size}+0"
            at += 1


def _common(
    forms: set[Form], points: Sequence[Point], bases: Sequence[Mapping[str, int]], at: int
) -> tuple[Form | None, int]:
    """Of the forms that explain the point at `at`, the plainest of those that explain most after it, and where it ends."""
    end = at + 1
    while end < len(points):
        left = {form for form in forms if _explains(form, points[end], bases[end])}
        if not left:
            break
        forms, end = left, end + 1
    return (min(forms, key=preference), end) if forms else (None, at)


def _explains(form: Form, point: Point, bases: Mapping[str, int]) -> bool:
    """As `conv_forms.candidates` decides it, for one form; a workspace of no bytes is not one of a few."""
    base, (what, count) = form
    if base not in bases or (form_bytes(point.call, form, bases) == 0) != (point.size == 0):
        return False
    if what == "bytes" and count <= SMALL:
        rest = point.size - bases[base]
        return rest == 0 if count == 0 else (base != "none" or rest > 0) and 0 <= rest <= SMALL
    return abs(form_bytes(point.call, form, bases) - point.size) <= CLOSE


def _straight(points: Sequence[Point], at: int) -> tuple[int, int, int] | None:
    """Bytes besides, bytes a sample, and where the points stop lying on that line."""
    if at + 1 >= len(points):
        return None
    a, b = points[at], points[at + 1]
    each, rest = divmod(b.size - a.size, b.batch - a.batch)
    if rest or each < 0:
        return None
    fixed, end = a.size - each * a.batch, at
    while end < len(points) and abs(fixed + each * points[end].batch - points[end].size) <= CLOSE:
        end += 1
    return (fixed, each, end) if fixed >= 0 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--into", type=Path, metavar="OLD", help="a file whose lines are kept")
    options = parser.parse_args()
    head = read_head(options.rows[0])
    old, text = read_lines(options.into) if options.into else ({"forms": [], "count": 0}, list[str]())
    forms: dict[Form, int] = {(base, (what, rest)): n for n, (base, (what, rest)) in enumerate(old["forms"])}
    lines: dict[str, str] = {}
    asked = unexplained = run_count = 0
    for key, points in read(options.rows):
        asked += len(points)
        words = [str(points[-1].batch)]
        for batch, form in runs(points):
            run_count += 1
            unexplained += isinstance(form, str) and form.endswith("+0")
            name = form if isinstance(form, str) else str(forms.setdefault(form, len(forms)))
            words.append(f"{batch}:{name}")
        lines[key] = f"{key}{' '.join(words)}\n"
    text = [*(line for line in text if line[:KEY] not in lines), *lines.values()]
    capability, version = tuple(head["capability"]), head["cudnn"]
    if options.into and (old["capability"] != list(capability) or old["cudnn"] != version):
        parser.error(f"{options.into} is of another capability or cuDNN")
    count = asked + old["count"]
    first = {
        "what": "Workspaces of usual convolutions, one a line: fingerprint, largest batch size asked, and from which "
        "batch size on which form holds, or which bytes and bytes a sample (estimator/scratch/conv_lines.py).",
        "source": f"measured: {count} convolutions (benchmarks/conv_sample.py --lines: the layers that "
        f"benchmarks/conv_line_layers.py lists), cuDNN {version // 10000}.{version // 100 % 100}.{version % 100} in its "
        "deviceless mode, as the trees beside this file were.",
        "capability": capability, "cudnn": version, "multiprocessors": MULTIPROCESSORS[capability],
        "batches": (*BATCHES, *LARGE_BATCHES), "count": count, "forms": list(forms),
    }  # fmt: skip
    options.out.write_text(json.dumps(first, separators=(",", ":")) + "\n" + "".join(sorted(text)))
    print(f"{asked} convolutions, {len(lines)} lines, {run_count} runs, {unexplained} explained by nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
