"""Make the turns of a file of lines exact: at which batch size one plan takes over from another, asked of cuDNN by halving.

    python -m benchmarks.conv_turns estimator/scratch/conv_plans/8.0.lines --out estimator/scratch/conv_plans/8.0.lines

Where the plans at two neighbouring batch sizes asked differ, the sizes between them are halved until the turn is known to
one sample; a turn with a third plan between stays as it is, and the sizes between it are not called asked. Workspaces that
no form explains are held against a straight line through two of them: where what is asked half way lies on it too, the
line stands for them. A line whose layer is not among those of `conv_line_layers` stays as it is. Needs what
`benchmarks.conv_sample` needs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.conv_asker import Asker
from benchmarks.conv_line_layers import line_layers
from benchmarks.conv_lines import read_lines
from benchmarks.conv_sample import KINDS
from estimator.scratch import conv_lines
from estimator.scratch.conv_call import CudnnConv
from estimator.scratch.conv_lines import KEY, Lines
from estimator.scratch.conv_workspace import STEP

Sizes = Callable[[int], int | None]


def turned(parts: Sequence[str], lines: Lines, at: Callable[[int], CudnnConv], ask: Sizes) -> list[str]:
    """The words of one line with the starts of its runs made exact; `ask` gives the workspace at a batch size."""
    asked = conv_lines.batches_asked(parts, lines.batches)
    words = list(parts)
    for i in range(2, len(parts)):
        start, after = parts[i].split(":")
        before, high = parts[i - 1].split(":")[1], int(start)
        low = asked[asked.index(high) - 1]
        while high - low > 1:
            middle = (low + high) // 2
            size, call = ask(middle), at(middle)
            is_after, is_before = (
                size is not None and abs(conv_lines.run_bytes(call, form, lines.forms) - size) <= STEP
                for form in (after, before)
            )
            if is_after:
                high = middle
            elif is_before:
                low = middle
            else:
                break
        else:
            words[i] = f"{high}:{after}"
    return words


def straightened(parts: Sequence[str], lines: Lines, ask: Sizes) -> list[str]:
    """The words of one line with its unexplained workspaces, two or more in a row, told as bytes that grow with the batch."""
    asked = conv_lines.batches_asked(parts, lines.batches)
    words = [parts[0]]
    ends = [*(int(part.split(":")[0]) for part in parts[2:]), asked[-1] + 1]
    last: tuple[int, int] | None = None  # batch size and bytes of the last word, where it is one unexplained workspace
    line: tuple[int, int] | None = None  # bytes besides and bytes a sample of the straight line that the last word is
    for part, end in zip(parts[1:], ends, strict=True):
        start, form = part.split(":")
        batch, is_one = int(start), form.endswith("+0") and sum(int(start) <= b < end for b in asked) == 1
        size = int(form[:-2]) if is_one else 0
        if is_one and last is not None:
            found = _through(last, (batch, size), ask)
            if found is not None and (line is None or found == line):
                if line is None:
                    words[-1] = f"{last[0]}:{found[0]}+{found[1]}"
                last, line = (batch, size), found
                continue
        words.append(part)
        last, line = ((batch, size) if is_one else None), None
    return words


def _through(a: tuple[int, int], b: tuple[int, int], ask: Sizes) -> tuple[int, int] | None:
    """Bytes besides and bytes a sample of the line through two workspaces, None where the one half way is not on it."""
    each, rest = divmod(b[1] - a[1], b[0] - a[0])
    fixed = a[1] - each * a[0]
    middle = (a[0] + b[0]) // 2
    if rest or each <= 0 or fixed < 0 or middle == a[0]:
        return None
    size = ask(middle)
    return (fixed, each) if size is not None and abs(fixed + each * middle - size) <= STEP else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--no-timm", action="store_true", help="leave the layers of timm's models as they are")
    options = parser.parse_args()
    head, text = read_lines(options.lines)
    lines = conv_lines.read(options.lines.read_bytes())
    major, minor = head["capability"]
    asker = Asker((major, minor))
    found = {line[:KEY]: line for line in text}
    question_count = turn_count = straight_count = 0
    half = "bfloat16" if major >= 8 else "float16"
    for layer, forms in line_layers(half, with_timm=not options.no_timm).items():
        for (dtype, nhwc), kind in itertools.product(forms, KINDS):

            def at(batch: int) -> CudnnConv:
                return layer.at(batch, kind, dtype, nhwc)  # noqa: B023

            def ask(batch: int) -> int | None:
                nonlocal question_count
                question_count += 1
                return asker.workspace(at(batch))

            key = conv_lines.fingerprint(at(1))
            if key not in found:
                continue
            parts = found[key][KEY:].split()
            words = straightened(parts, lines, ask)
            straight_count += len(parts) - len(words)
            turns = turned(words, lines, at, ask)
            turn_count += sum(a != b for a, b in zip(words, turns, strict=True))
            found[key] = f"{key}{' '.join(turns)}\n"
    head["count"] += question_count
    head["source"] = f"measured: {head['count']} {head['source'].split(' ', 2)[2]}"
    options.out.write_text(json.dumps(head, separators=(",", ":")) + "\n" + "".join(sorted(found.values())))
    print(f"{question_count} questions, {turn_count} turns made exact, {straight_count} joined")
    return 0


if __name__ == "__main__":
    sys.exit(main())
