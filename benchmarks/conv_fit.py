"""Make a table of `estimator/scratch/conv_plans` from measured workspaces.

    python -m benchmarks.conv_fit rows.jsonl.gz ... --out estimator/scratch/conv_plans/8.0.json
                                  [--lines lines.jsonl.gz ...] [--into OLD.json [--only "half nchw" ...]]

The rows are those of `benchmarks.conv_sample`; of those of `conv_sample --lines` a share is drawn. With `--into` the trees
that `--only` does not name, and the exceptions, are an older table's. Needs scikit-learn. Every workspace is first explained by a form
(`conv_forms`), then a decision tree a pass, kind of type and layout learns which form a shape gets. The bounds of a leaf
come from trees that had not seen the layer's weight and geometry at any image size (two halves of these, each predicted by
the other). Prints how often
such a tree was right to 512 bytes, the allocator's step.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import itertools
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from benchmarks.conv_forms import Form, candidates, canonical, constants
from benchmarks.conv_sample import each_row, read_head
from estimator.scratch.conv_call import CudnnConv
from estimator.scratch.conv_features import FEATURES, features
from estimator.scratch.conv_forms import base_bytes, form_bytes, tensor_bytes

STEP = 512
LINES_SHARE = 0.1
"""Of the two or three dozen batch sizes of a line so many are drawn: they say nearly the same."""
LEAVES, LEAVES_OF_HALF = 9000, 5000
COMMON = 100
"""Forms that fewer convolutions have are one to a tree as it grows.

Measured, gradients of a weight in float32 on 8.0, 168,000 convolutions, timm layers not seen: 72.9 % right with all forms
apart (97 s) as with these (20 s), at 7,000 leaves; with 21,000 leaves 71.3 %.
"""
LIKE_IT = 60
"""Convolutions that a leaf's bounds are taken from, at least: the leaf's own, or those of the branch above it."""
OUTSIDE = 0.008
"""Share of them that may lie outside on either side."""
_STEPS = (0, .001, .002, .005, .01, .02, .05, .1, .15, .2, .3, .4, .5, .6, .7, .8, .9, 1, 1.1, 1.25, 1.5, 1.75, 2, 2.5, 3,
          3.5, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 300, 500, 1000, 3000, 10000)  # fmt: skip
BOUNDS = np.array(sorted({sign * step for sign in (-1, 1) for step in _STEPS}))
"""Bounds are rounded outwards to these, so that leaves share them."""
NOTHING: Form = ("none", ("bytes", 0))
Leaf = tuple[Form, tuple[float, float]]


class Group:
    """The convolutions of one tree: what was measured, and the forms that explain it."""

    def __init__(self, calls: list[CudnnConv], sizes: list[int], found: list[set[Form]]) -> None:
        self.calls, self.sizes, self.found = calls, sizes, found
        self.labels = canonical(found)
        self.count = collections.Counter(self.labels)
        self.values = np.array([features(call) for call in calls], dtype=np.float32)
        common = sorted((form for form, count in self.count.items() if count >= COMMON), key=str)
        number = {form: i for i, form in enumerate(common)}
        self.targets = np.array([number.get(label, len(common)) for label in self.labels])
        self.halves = np.array([half_of(call) for call in calls])

    def miss(self, index: int, form: Form) -> int:
        """Bytes that were measured beyond the form."""
        return self.sizes[index] - form_bytes(self.calls[index], form)

    def form_of(self, members: Sequence[int]) -> Form:
        """The form of a leaf: the one that is right most often, of the commonest four the one that errs least."""
        seen = collections.Counter(form for i in members for form in self.found[i])
        if not seen:
            return NOTHING
        ranked = sorted(seen, key=lambda form: (-seen[form], -self.count[form]))
        if seen[ranked[0]] == len(members):
            return ranked[0]

        def cost(form: Form) -> float:
            misses = [abs(self.miss(i, form)) / tensor_bytes(self.calls[i]) for i in members]
            return sum(min(m, 1) / 2 + (m > 1e-3) / 2 for m in misses)

        return min(ranked[:4], key=cost)

    def grow(self, members: np.ndarray[Any, Any], leaves: int) -> tuple[Any, dict[int, Form]]:
        """A tree over `members`, and the form of each of its leaves."""
        tree = DecisionTreeClassifier(criterion="entropy", min_samples_leaf=2, max_leaf_nodes=leaves, random_state=0)
        tree.fit(self.values[members], self.targets[members])
        inside: dict[int, list[int]] = collections.defaultdict(list)
        for i, leaf in zip(members, tree.apply(self.values[members]), strict=True):
            inside[leaf].append(int(i))
        return tree, {leaf: self.form_of(indices) for leaf, indices in inside.items()}

    def misses_of_the_unseen(self) -> np.ndarray[Any, Any]:
        """For each convolution, bytes beyond what a tree says that did not see its layer."""
        out = np.zeros(len(self.calls), dtype=np.int64)
        for half in (0, 1):
            tree, forms = self.grow(np.flatnonzero(self.halves != half), LEAVES_OF_HALF)
            unseen = np.flatnonzero(self.halves == half)
            for i, leaf in zip(unseen, tree.apply(self.values[unseen]), strict=True):
                out[i] = self.miss(int(i), forms[leaf])
        return out


def half_of(call: CudnnConv) -> int:
    """0 or 1, the same for all convolutions of one weight and geometry, whatever their batch and image size."""
    text = repr((call.w, call.stride, call.padding, call.dilation, call.groups))
    return hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % 2


def grown(group: Group, misses: np.ndarray[Any, Any]) -> Any:
    """The final tree as nested (feature, threshold, smaller, larger), its leaves with form and bounds."""
    fractions = misses / np.array([tensor_bytes(call) for call in group.calls], dtype=np.float64)
    fitted, forms = group.grow(np.arange(len(group.calls)), LEAVES)
    tree, inside = fitted.tree_, fitted.decision_path(group.values).tocsc()

    def bounds(nodes: Sequence[int]) -> tuple[float, float]:
        for node in reversed(nodes):
            like = fractions[inside.indices[inside.indptr[node] : inside.indptr[node + 1]]]
            if len(like) >= LIKE_IT or node == nodes[0]:
                break
        low = min(0.0, np.quantile(like, OUTSIDE, method="lower"))
        high = max(0.0, np.quantile(like, 1 - OUTSIDE, method="higher"))
        below, above = np.searchsorted(BOUNDS, low, "right") - 1, np.searchsorted(BOUNDS, high)
        return float(BOUNDS[max(below, 0)]), float(BOUNDS[min(above, len(BOUNDS) - 1)])

    def build(nodes: tuple[int, ...]) -> Any:
        node = nodes[-1]
        if tree.children_left[node] < 0:
            return forms[node], bounds(nodes)
        smaller, larger = (build((*nodes, int(side[node]))) for side in (tree.children_left, tree.children_right))
        if smaller == larger:
            return smaller
        return int(tree.feature[node]), int(np.floor(tree.threshold[node])), smaller, larger

    return build((0,))


def flat(tree: Any, form_index: Callable[[Form], int], bound_index: Callable[[Any], int]) -> list[int]:
    """The tree in the form that `conv_workspace.load_plans` reads."""
    if len(tree) == 2:
        return [-1 - form_index(tree[0]), bound_index(tree[1])]
    out: list[int] = []

    def emit(node: Any) -> None:
        if len(node) == 2:
            out.extend((-1 - form_index(node[0]), bound_index(node[1])))
            return
        at = len(out)
        out.extend((node[0], node[1], 0))
        emit(node[2])
        out[at + 2] = len(out)
        emit(node[3])

    emit(tree)
    return out


def name_of(call: CudnnConv) -> str:
    """Of the tree that a convolution is looked up in."""
    return f"{'float32' if call.dtype == 'float32' else 'half'} {'nhwc' if call.nhwc else 'nchw'} {call.kind}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lines", nargs="*", type=Path, default=[], help="rows of lines, of which a share is drawn")
    parser.add_argument("--into", type=Path, metavar="OLD", help="a table whose other trees and exceptions are kept")
    parser.add_argument("--only", nargs="+", default=[""], help="trees to fit, by how their names begin")
    options = parser.parse_args()
    sys.setrecursionlimit(10_000)
    head, rng = read_head(options.rows[0]), random.Random(0)
    old: dict[str, Any] = json.loads(options.into.read_text()) if options.into else {}
    every = itertools.chain(each_row(options.rows), (r for r in each_row(options.lines) if rng.random() < LINES_SHARE))
    rows = [row for row in every if name_of(row[1]).startswith(tuple(options.only))]
    bases = [base_bytes(call) for _, call, _ in rows]
    known = constants((layer, base, size) for (layer, _, size), base in zip(rows, bases, strict=True))
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for i, (_, call, _) in enumerate(rows):
        groups[name_of(call)].append(i)
    kept = old if options.only != [""] else {}  # where every tree is new, no older form or bound is in use
    forms: dict[Form, int] = {(base, (what, n)): i for i, (base, (what, n)) in enumerate(kept.get("forms", []))}
    bounds: dict[tuple[float, float], int] = {(low, high): i for i, (low, high) in enumerate(kept.get("bounds", []))}
    trees: dict[str, list[int]] = dict(kept.get("trees", {}))
    for name in sorted(groups):
        picked = [rows[i] for i in groups[name]]
        found = [candidates(rows[i][1], rows[i][2], bases[i], known) for i in groups[name]]
        group = Group([r[1] for r in picked], [r[2] for r in picked], found)
        misses = group.misses_of_the_unseen()
        print(
            f"{name}: {len(picked)} convolutions, {np.mean(np.abs(misses) <= STEP):.1%} of the unseen right", flush=True
        )
        trees[name] = flat(
            grown(group, misses), lambda f: forms.setdefault(f, len(forms)), lambda b: bounds.setdefault(b, len(bounds))
        )
    version = head["cudnn"]
    fitted = "all trees" if not kept else f"{', '.join(options.only)}; the other trees as before: {old['source'].split(',')[0]}"
    table: dict[str, Any] = {
        "what": "Decision trees that give the workspace of the plan cuDNN puts first for a convolution "
        "(estimator/scratch/conv_workspace.py, load_plans).",
        "source": f"measured: {len(rows)} convolutions (benchmarks/conv_sample.py, {fitted}), cuDNN {version // 10000}."
        f"{version // 100 % 100}.{version % 100} in its deviceless mode (heuristics INSTANT, configurations filtered as "
        "Conv_v8.cpp of PyTorch 2.11 does, TF32 allowed), told of a simulated card of this capability; cuBLASLt taken to "
        "accept every product. Fitted by benchmarks/conv_fit.py.",
        "capability": head["capability"], "features": list(FEATURES), "forms": list(forms), "bounds": list(bounds),
    }  # fmt: skip

    def line(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"))

    parts = [f"{line(name)}:{line(value)}" for name, value in table.items()]
    parts.append('"trees":{\n' + ",\n".join(f"{line(name)}:{line(trees[name])}" for name in sorted(trees)) + "\n}")
    if "exceptions" in old:
        parts.append(f'"exceptions":{line(old["exceptions"])}')
    options.out.write_text("{\n" + ",\n".join(parts) + "\n}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
