"""Ask cuDNN at every batch size where a line of usual convolutions does not tell what comes between its batch sizes.

    python -m benchmarks.conv_every --capability 8.0 --out estimator/scratch/conv_plans [--torchvision]

Of products (kernel 1x1, stride 1) with the channels outermost cuDNN's choice hangs on how full the last tile of rows is, so
that plans come and go with the batch size: at 320 channels, 160 out and 14x14 pixels three batch sizes of sixteen get
another one. Gradients of a depthwise weight with the channels innermost do the like. The lines of these are asked at the
batch sizes of `PROBES`. Where one is not what the line says, the line is asked at every batch size up to its largest, and
written anew: `*` after the largest says so (with the number after it where larger ones than `MOST` were asked), and a run may be two forms that take turns by the remainder of the batch size
(`conv_lines.chosen`). With `--torchvision` only torchvision's models are gone through, at 224 pixels and `OTHER_SIZES`.
Needs what `benchmarks.conv_sample` needs.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.conv_asker import Asker
from benchmarks.conv_forms import CLOSE
from benchmarks.conv_layers import Layer, layers_of_models
from benchmarks.conv_line_layers import OTHER_SIZES, line_layers
from benchmarks.conv_lines import Point, read_lines, runs
from benchmarks.conv_sample import KINDS, goes_to_cudnn
from estimator.scratch import conv_lines
from estimator.scratch.conv_call import CudnnConv, Kind
from estimator.scratch.conv_forms import Form
from estimator.scratch.conv_lines import KEY, Lines
from estimator.scratch.conv_workspace import STEP

PROBES = (9, 11, 15, 18, 22, 27, 30, 50, 75, 90, 120, 160, 200, 250)
"""Batch sizes between those of `conv_sample.BATCHES`: odd, even, and round ones that people take."""
MOST = 256
"""Batch sizes up to which every one is asked."""
PERIODS = (2, 4, 8, 16, 32, 64)
"""Samples after which the rows of a product are the same number beyond whole tiles of 64 or 128 rows."""
PAIRS = 4
"""Of the forms of one line so many, the commonest, are tried in pairs."""
FEWEST = 4
"""Runs of one form each that two forms in turns must stand for."""

Ask = Callable[[int], int | None]
At = Callable[[int], CudnnConv]


def is_wanted(call: CudnnConv) -> bool:
    """Whether it is of the convolutions whose plans come and go with the batch size.

    Source: measured: of 9,120 lines of 700 layers on 8.0, at 8 batch sizes each between those asked, the lines of products
    with the channels outermost held 45,000 of the 56,000 MiB that were missing, depthwise weights 6,500.
    """
    if call.is_product:
        return not call.nhwc
    return call.nhwc and call.kind == "weight" and call.groups == call.x[1] > 1


def is_told(at: At, ask: Ask, lines: Lines, batches: Iterable[int] = PROBES) -> bool:
    """Whether the line says at all `batches` what cuDNN says."""
    for batch in batches:
        found = conv_lines.look_up(at(batch), lines)
        size = ask(batch) if found is not None and found.is_within else None
        if found is not None and size is not None and any(abs(n - size) > STEP for n in found.next_to):
            return False
    return True


def every(last: int, at: At, ask: Ask, forms: dict[Form, int], batches: Iterable[int] = ()) -> list[str]:
    """Words of one line asked at every batch size up to `last` or `MOST`, then at `batches`; new forms get a number."""
    dense = min(last, MOST)
    wanted = [*range(1, dense + 1), *(b for b in batches if dense < b <= last)]
    points = [Point(b, at(b), size) for b in wanted if (size := ask(b)) is not None]
    named = [
        (batch, form if isinstance(form, str) else str(forms.setdefault(form, len(forms))))
        for batch, form in runs(points)
    ]
    words = [f"{last}*" if last == dense else f"{last}*{dense}"]
    for batch, name in joined(points, named, tuple(forms)):
        words.append(f"{batch}:{name}")
    return words


def joined(
    points: Sequence[Point], named: Sequence[tuple[int, str]], forms: Sequence[Form]
) -> Iterator[tuple[int, str]]:
    """The runs, with two forms in turns where these stand for `FEWEST` runs or more."""
    ends = [*(batch for batch, _ in named[1:]), points[-1].batch + 1]
    length: collections.Counter[str] = collections.Counter()
    for (start, name), end in zip(named, ends, strict=True):
        length[name] += end - start
    common = [name for name, _ in length.most_common(PAIRS)]
    fits = {
        name: {p.batch for p in points if abs(conv_lines.run_bytes(p.call, name, tuple(forms)) - p.size) <= CLOSE}
        for name in common
    }
    at = 0
    while at < len(named):
        start, name = named[at]
        far, best = start, ""
        if len(named) - at >= FEWEST:
            for (a, b), period in itertools.product(itertools.combinations(common, 2), PERIODS):
                end, mask = _turns(fits[a], fits[b], period, start)
                if end > far:
                    far, best = end, f"{a}%{period}%{mask:x}%{b}"
        count = sum(end <= far for end in ends[at:])
        if count >= FEWEST:
            yield start, best
            at += count
            if at < len(named) and far > named[at][0]:  # the next run begins where the turns end
                begin = min(point.batch for point in points if point.batch >= far)
                named = [*named[:at], (begin, named[at][1]), *named[at + 1 :]]
        else:
            yield start, name
            at += 1


def _turns(a: set[int], b: set[int], period: int, start: int) -> tuple[int, int]:
    """How far two forms in turns explain every batch size from `start` on, and the remainders of the second, as bits."""
    left: dict[int, tuple[bool, bool]] = {}
    batch = start
    while batch in a or batch in b:
        is_a, is_b = left.get(batch % period, (True, True))
        is_a, is_b = is_a and batch in a, is_b and batch in b
        if not (is_a or is_b):
            break
        left[batch % period] = is_a, is_b
        batch += 1
    return batch, sum(1 << rest for rest, (is_a, _) in left.items() if not is_a)


class Filler:
    """Fills a file of lines, and that of float16 beside it."""

    def __init__(self, ask: Callable[[CudnnConv], int | None], folder: Path, name: str) -> None:
        self.ask, self.question_count = ask, 0
        self.paths = {half: folder / f"{name}.{'float16.' if half else ''}lines" for half in (False, True)}
        self.heads, self.found, self.forms, self.lines = {}, {}, {}, {}
        for half, path in self.paths.items():
            self.heads[half], text = read_lines(path)
            self.lines[half] = conv_lines.read(path.read_bytes())
            self.found[half] = {line[:KEY]: line[KEY:].split() for line in text}
            self.forms[half] = {form: number for number, form in enumerate(self.lines[half].forms)}

    def add(self, layer: Layer, kind: Kind, dtype: str, nhwc: bool) -> None:
        """Ask one line at `PROBES`, and at every batch size where these are not as it says."""

        def at(batch: int) -> CudnnConv:
            return layer.at(batch, kind, dtype, nhwc)

        def ask(batch: int) -> int | None:
            self.question_count += 1
            return self.ask(at(batch)) if goes_to_cudnn(at(batch)) else None

        half = dtype == "float16"
        key = conv_lines.fingerprint(at(1))
        own = self.found[half].get(key)
        parts = own or (self.found[False].get(key) if own is None else None)
        if not parts or (own and "*" in own[0]):
            return
        of = half and own is not None
        one = Lines(*self.lines[of][:3], tuple(self.forms[of]), f"{key}{' '.join(parts)}\n".encode())
        last = int(parts[0].split("*")[0])
        batches = range(1, min(last, MOST) + 1) if "*" in parts[0] else PROBES
        if not is_told(at, ask, one, batches):
            self.found[half][key] = every(last, at, ask, self.forms[half], one.batches)

    def write(self) -> None:
        """Write both files anew; the questions are counted in the first."""
        head = self.heads[False]
        head["count"] += self.question_count
        head["source"] = f"measured: {head['count']} {head['source'].split(' ', 2)[2]}"
        for half, path in self.paths.items():
            head, found = self.heads[half], self.found[half]
            head["forms"] = list(self.forms[half])
            text = "".join(f"{key}{' '.join(words)}\n" for key, words in sorted(found.items()))
            path.write_text(json.dumps(head, separators=(",", ":")) + "\n" + text)
            print(
                path.name,
                sum(bool(w) and "*" in w[0] for w in found.values()),
                "lines asked at every batch size",
            )
        print(self.question_count, "questions")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", default="8.0")
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder with the files of lines, which are written anew"
    )
    parser.add_argument("--torchvision", action="store_true", help="torchvision's models only")
    options = parser.parse_args()
    if options.torchvision:
        layers = layers_of_models((224,), others=False)
        for sizes, names in OTHER_SIZES.items():
            layers += layers_of_models(sizes, others=False, only=names)
    else:
        layers = list(line_layers("bfloat16", with_timm=True))
    major, minor = map(int, options.capability.split("."))
    filler = Filler(Asker((major, minor)).workspace, options.out, options.capability)
    for layer, dtype in itertools.product(layers, ("float32", "bfloat16", "float16")):
        for kind, nhwc in itertools.product(KINDS, (False, True)):
            if is_wanted(layer.at(1, kind, dtype, nhwc)):
                filler.add(layer, kind, dtype, nhwc)
    filler.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
