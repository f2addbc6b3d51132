"""Make the lines of float16 of `estimator/scratch/conv_plans`: where its workspaces are not those of bfloat16.

    python -m benchmarks.conv_float16 --capability 8.0 --out estimator/scratch/conv_plans/8.0.float16.lines

Every line of 16-bit types in the file of lines is asked in float16, at the batch sizes it was asked at and on either side
of its turns. Where all workspaces agree, float16 has that line. Where one does not, the layer gets a line of its own, made
as `benchmarks.conv_lines` and `benchmarks.conv_turns` make them. So do depthwise convolutions with the channels outermost
that PyTorch gives to cuDNN in float16 alone. A line whose layer is not among those of `conv_line_layers` cannot be asked:
its name stands in the file without more. With `--into` the file of float16 that stands there is added to: what has not
changed since an older file of lines (`--since`) is not asked again. Needs what `benchmarks.conv_sample` needs. Prints how
much differs.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.conv_asker import Asker
from benchmarks.conv_layers import Layer
from benchmarks.conv_line_layers import line_layers
from benchmarks.conv_lines import Point, read_lines, runs
from benchmarks.conv_sample import KINDS, goes_to_cudnn
from benchmarks.conv_turns import straightened, turned
from estimator.device import DeviceProfile, Target
from estimator.graph import TensorSpec
from estimator.scratch import conv_lines
from estimator.scratch.conv_call import ConvCall, CudnnConv, Kind, lay_out, select_backend
from estimator.scratch.conv_forms import Form
from estimator.scratch.conv_lines import KEY, Lines
from estimator.scratch.conv_workspace import STEP

Ask = Callable[[CudnnConv], int | None]
BARE = " "
"""Stands for the words of a line that was not asked, where no words stand for one that agrees."""
_CARD = Target(device=DeviceProfile(name="card", kind="cuda", total_bytes=80 << 30, compute_capability=(8, 0),
                                    multiprocessor_count=108), torch_version="2.11.0")  # fmt: skip


class Maker:
    """Makes one file of lines of float16 from the lines of 16-bit types, and counts what it finds."""

    def __init__(self, ask: Ask, known: Lines, since: Lines | None = None, own: Lines | None = None) -> None:
        self.ask, self.known, self.since, self.own = ask, known, since, own
        self.forms: dict[Form, int] = {form: number for number, form in enumerate(own.forms if own is not None else ())}
        self.text: dict[str, str] = {}
        self.counts: collections.Counter[str] = collections.Counter()

    def add(self, layer: Layer, kind: Kind, nhwc: bool) -> None:
        """Ask one layer in one pass and layout; keep a line where float16 differs from what is known."""

        def at(batch: int) -> CudnnConv:
            return layer.at(batch, kind, "float16", nhwc)

        def ask(batch: int) -> int | None:
            self.counts["questions"] += 1
            return self.ask(at(batch)) if goes_to_cudnn(at(batch)) else None

        key = conv_lines.fingerprint(at(1))
        parts = conv_lines.find(self.known.text, key)
        if key in self.text or (parts is None and not (is_cudnns_in_float16_alone(layer) and not nhwc)):
            return
        if self.is_kept(key):
            return
        known = conv_lines.batches_asked(parts, self.known.batches) if parts is not None else self.known.batches
        sizes = {batch: size for batch in known if (size := ask(batch)) is not None}
        self.counts["lines"] += 1
        if parts is not None and all(self._is_known(at(batch), size) for batch, size in sizes.items()):
            self.text[key] = ""
            return
        points = [Point(b, at(b), sizes[b]) for b in self.known.batches if b in sizes]
        words = [str(points[-1].batch)] if points else []
        for batch, form in runs(points):
            words.append(f"{batch}:{form if isinstance(form, str) else self.forms.setdefault(form, len(self.forms))}")
        if words:
            lines = self.known._replace(forms=tuple(self.forms))
            words = turned(straightened(words, lines, ask), lines, at, ask)
            self.counts["own lines"] += 1
        self.text[key] = " ".join(words)

    def is_kept(self, key: str) -> bool:
        """Whether what the older file of float16 says of a line still stands: the line is as it was then."""
        if self.since is None or self.own is None:
            return False
        before = conv_lines.find(self.since.text, key)
        own = conv_lines.find(self.own.text, key)
        return before == conv_lines.find(self.known.text, key) and (before is not None or own is not None)

    def _is_known(self, call: CudnnConv, size: int) -> bool:
        found = conv_lines.look_up(call, self.known)
        return found is not None and abs(found.next_to[0] - size) <= STEP

    def content(self, names: Iterable[str]) -> str:
        """Lines where float16 differs, and the bare names of those of `names` that were not asked, sorted."""
        for line in self.own.text.decode().splitlines() if self.own is not None else ():
            if self.is_kept(line[:KEY]):
                self.text.setdefault(line[:KEY], line[KEY:] or BARE)
        unasked = {name: BARE for name in names if name not in self.text and not self.is_kept(name)}
        self.counts["not asked"] = len(unasked)
        own = {key: words for key, words in self.text.items() if words}
        return "".join(sorted(f"{key}{words.strip()}\n" for key, words in (own | unasked).items()))


def is_cudnns_in_float16_alone(layer: Layer) -> bool:
    """Whether a depthwise convolution with the channels outermost goes to cuDNN in float16, at some batch size."""
    if layer.groups != layer.x[0] or layer.groups == 1:
        return False
    weight = lay_out(TensorSpec("float16", layer.w, layer.w), nhwc=False)
    for batch in (1, 2):
        x = lay_out(TensorSpec("float16", (batch, *layer.x), layer.x), nhwc=False)
        call = ConvCall(x, weight, None, False, layer.stride, layer.padding, layer.dilation, False,
                        (0,) * len(layer.stride), layer.groups, (False, False, False))  # fmt: skip
        if select_backend(call, _CARD) == "cudnn":
            return True
    return False


def make(maker: Maker, layers: Mapping[Layer, Iterable[tuple[str, bool]]]) -> None:
    """Ask every layer in every pass and layout that 16-bit types have a line in."""
    for layer, forms in layers.items():
        layouts = [nhwc for dtype, nhwc in forms if dtype == "bfloat16"]
        for nhwc, kind in itertools.product(layouts, KINDS):
            maker.add(layer, kind, nhwc)


def write(maker: Maker, head: Mapping[str, Any], names: Iterable[str], out: Path) -> None:
    """Write the file of lines of float16; `head` is that of the file of lines that it stands beside."""
    count, version = maker.counts["questions"], head["cudnn"]
    text = maker.content(names)
    first = {
        "what": "Workspaces of convolutions in float16 that are not those of bfloat16, a line each as in the file of lines "
        "beside this one; a bare fingerprint is a line that was not asked in float16 (benchmarks/conv_float16.py).",
        "source": f"measured: {count} convolutions, cuDNN {version // 10000}.{version // 100 % 100}.{version % 100} in its "
        "deviceless mode.",
        **{name: head[name] for name in ("capability", "cudnn", "multiprocessors", "batches")},
        "count": count, "forms": list(maker.forms),
    }  # fmt: skip
    out.write_text(json.dumps(first, separators=(",", ":")) + "\n" + text)
    print(" ".join(f"{number} {what}," for what, number in maker.counts.items()), f"{len(text)} bytes of text")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", default="8.0")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--no-timm", action="store_true", help="leave out the layers of timm's models")
    parser.add_argument("--into", type=Path, metavar="OLD", help="a file of float16 that is added to")
    parser.add_argument("--since", type=Path, metavar="LINES", help="the file of lines that it was made from")
    options = parser.parse_args()
    major, minor = map(int, options.capability.split("."))
    known = conv_lines.load((major, minor))
    if known is None:
        parser.error(f"there are no lines of {options.capability}")
    layers = line_layers("bfloat16", with_timm=not options.no_timm)
    since, own = (conv_lines.read(path.read_bytes()) if path else None for path in (options.since, options.into))
    maker = Maker(Asker((major, minor)).workspace, known, since, own)
    if options.into:
        maker.counts["questions"] = read_lines(options.into)[0]["count"]
    make(maker, layers)
    head, text = read_lines(Path(conv_lines.__file__).with_name("conv_plans") / f"{major}.{minor}.lines")
    floats = {
        conv_lines.fingerprint(layer.at(1, kind, "float32", nhwc))
        for layer, forms in layers.items()
        for (dtype, nhwc), kind in itertools.product(forms, KINDS)
        if dtype == "float32"
    }
    write(maker, head, (line[:KEY] for line in text if line[:KEY] not in floats), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
