"""Compare the predicted ledger of a case with a recorded allocator history, event by event.

    python -m benchmarks.diff_history HISTORY.json.gz [--case NAME] [--batch N] [--phase step1.backward] [--hunks 5]

Case, batch, capability and torch version are taken from the history. The two lists of allocations and frees are aligned
phase by phase on (alloc or free, size), and what does not align is shown: where they first part, what each side has
that the other lacks (added up by op, module kind and size), and what is alive at the recorded peak on one side alone.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from benchmarks import align
from benchmarks.cases import load_cases
from benchmarks.history import Recorded, Request, frees_sorted, read, running_bytes
from benchmarks.jobs import job_of, target_device

Phases = Mapping[str, Sequence[Request]]


def predicted_phases(estimate: Any, batch: int) -> dict[str, tuple[Request, ...]]:
    """The predicted requests of each phase, labelled with op and module."""
    ledger, labels = estimate.ledger(batch), op_labels(estimate)
    starts = [*ledger.phases, ("", len(ledger.events))]
    phases: dict[str, tuple[Request, ...]] = {}
    for (name, begin), (_, end) in pairwise(starts):
        phases[name] = phases.get(name, ()) + tuple(
            Request(e.is_alloc, e.block, e.size_bytes, f"{labels.get(e.op, '-')} {e.category.value}")
            for e in ledger.events[begin:end]
        )
    return phases


def op_labels(estimate: Any) -> dict[int, str]:
    """`op @ module` for each op of the step graph, by index."""
    nodes = [n for n in estimate.graph.nodes if n.op == "call_function"]
    return {i: f"{_short(n)} @ {n.meta.get('module') or '(root)'}" for i, n in enumerate(nodes)}


def _short(node: Any) -> str:
    return str(node.meta.get("name") or node.target).removeprefix("aten.")


def difference(recorded: Phases, predicted: Phases) -> dict[str, list[align.Hunk]]:
    """Hunks of each phase that both have; `left` is the recording."""
    return {
        name: align.hunks(_tokens(recorded[name]), _tokens(predicted[name])) for name in recorded if name in predicted
    }


def _tokens(requests: Iterable[Request]) -> list[int]:
    return [r.size_bytes if r.is_alloc else ~r.size_bytes for r in requests]


def phase_table(recorded: Phases, predicted: Phases, found: Mapping[str, Sequence[align.Hunk]]) -> list[str]:
    """One line a phase: peaks and ends of both sides (requested bytes), and what is missing and too many."""
    lines = [
        f"{'phase':18} {'recorded peak':>15} {'pred - rec':>13} {'recorded end':>15} {'pred - rec':>13}"
        f" {'missing':>8} {'extra':>6}  (allocations)"
    ]
    live = dict.fromkeys(("recorded", "predicted"), 0)
    for name, mine in recorded.items():
        theirs = predicted.get(name)
        run = running_bytes(mine, live["recorded"]) or [live["recorded"]]
        peak, live["recorded"] = max(live["recorded"], *run), run[-1]
        if theirs is None:
            lines.append(f"{name:18} {peak:15,} {'not predicted':>13}")
            continue
        run = running_bytes(theirs, live["predicted"]) or [live["predicted"]]
        their_peak, live["predicted"] = max(live["predicted"], *run), run[-1]
        missing = sum(mine[i].is_alloc for h in found[name] for i in range(h.left_start, h.left_end))
        extra = sum(theirs[j].is_alloc for h in found[name] for j in range(h.right_start, h.right_end))
        lines.append(
            f"{name:18} {peak:15,} {their_peak - peak:+13,} {live['recorded']:15,}"
            f" {live['predicted'] - live['recorded']:+13,} {missing:8} {extra:6}"
        )
    lines += [f"{name:18} {'not recorded':>15}" for name in predicted if name not in recorded]
    return lines


def hunk_lines(hunk: align.Hunk, mine: Sequence[Request], theirs: Sequence[Request], around: int = 3) -> list[str]:
    """The hunk as a diff: `-` recorded alone, `+` predicted alone, with labels of the prediction around it."""
    out = [f"  @@ recorded {hunk.left_start}..{hunk.left_end}, predicted {hunk.right_start}..{hunk.right_end}"]
    for j in range(max(0, hunk.right_start - around), hunk.right_start):
        out.append(f"    {_line(theirs[j])}")
    out += [f"  - {_line(mine[i])}" for i in range(hunk.left_start, hunk.left_end)]
    out += [f"  + {_line(theirs[j])}" for j in range(hunk.right_start, hunk.right_end)]
    for j in range(hunk.right_end, min(len(theirs), hunk.right_end + around)):
        out.append(f"    {_line(theirs[j])}")
    return out


def _line(r: Request) -> str:
    return f"{'alloc' if r.is_alloc else 'free ':5} {r.size_bytes:>14,}  {r.label}"


def summary(recorded: Phases, predicted: Phases, found: Mapping[str, Sequence[align.Hunk]], most: int) -> list[str]:
    """What one side has and the other lacks, added up over all phases by kind of phase, size and op.

    An allocation or free that both have, but at another place in the phase, counts as moved.
    """
    sums: Counter[tuple[str, str, int, str]] = Counter()
    for name, these in found.items():
        kind = re.sub(r"\d+", "N", name)
        left = [recorded[name][i] for h in these for i in range(h.left_start, h.left_end)]
        right = [predicted[name][j] for h in these for j in range(h.right_start, h.right_end)]
        both = Counter(_tokens(left)) & Counter(_tokens(right))
        spare = Counter(both)
        for r, token in zip(right, _tokens(right), strict=True):
            verb = "moved" if spare[token] > 0 else "extra"
            spare[token] -= verb == "moved"
            sums[kind, f"{verb} {'alloc' if r.is_alloc else 'free'}", r.size_bytes, _kind(r.label)] += 1
        spare = Counter(both)
        for j, (r, token) in enumerate(zip(left, _tokens(left), strict=True)):
            if spare[token] > 0:
                spare[token] -= 1
            else:
                near = _near(left, j, these, recorded[name], predicted[name])
                sums[kind, f"missing {'alloc' if r.is_alloc else 'free'}", r.size_bytes, f"near {near}"] += 1
    order = sorted(sums.items(), key=lambda row: (row[0][1].startswith("moved"), -row[0][2] * row[1]))
    lines = [f"  {n:5} x {size:>14,}  {what:13} {kind:16} {who}" for (kind, what, size, who), n in order[:most]]
    return lines + ([f"  ... and {len(order) - most} more"] if len(order) > most else [])


def _near(
    left: Sequence[Request], j: int, these: Sequence[align.Hunk], mine: Sequence[Request], theirs: Sequence[Request]
) -> str:
    """The predicted op just before the hunk that holds the `j`-th of `left`."""
    passed = 0
    for h in these:
        passed += h.left_end - h.left_start
        if j < passed:
            return _kind(theirs[h.right_start - 1].label) if h.right_start else "the start of the phase"
    return "?"


def _kind(label: str) -> str:
    """A label with the numbers of layers taken out, so that equal layers add up."""
    return re.sub(r"\.\d+(?=\.|\b)", ".N", label)


def at_peak(recorded: Phases, predicted: Phases, most: int) -> list[str]:
    """What lives on one side alone at the recorded peak; the predicted moment is the one aligned with it."""
    live: dict[int, Request] = {}
    best, peak, where, total = 0, {}, ("", 0), 0
    for name, requests in recorded.items():
        for i, r in enumerate(requests):
            total += r.size_bytes if r.is_alloc else -r.size_bytes
            if r.is_alloc:
                live[r.block] = r
            else:
                live.pop(r.block, None)
            if total > best and name in predicted:
                best, peak, where = total, dict(live), (name, i)
    name, index = where
    if not name:
        return ["  no phase in common"]
    pairs = align.matches(_tokens(recorded[name]), _tokens(predicted[name]))
    until = max((j for i, j in pairs if i <= index), default=-1)
    theirs: dict[int, Request] = {}
    for other, requests in predicted.items():
        for r in requests[: until + 1] if other == name else requests:
            if r.is_alloc:
                theirs[r.block] = r
            else:
                theirs.pop(r.block, None)
        if other == name:
            break
    there = sum(r.size_bytes for r in theirs.values())
    said = f"  recorded {best:,} B in {name} at {index}; predicted there {there:,} B"
    a, b = (Counter(r.size_bytes for r in side.values()) for side in (peak, theirs))
    lines = [said]
    for size, n in sorted((a - b).items(), key=lambda row: -row[0] * row[1])[:most]:
        lines.append(f"  - {n:5} x {size:>14,}  alive in the recording alone")
    for size, n in sorted((b - a).items(), key=lambda row: -row[0] * row[1])[:most]:
        who = Counter(_kind(r.label) for r in theirs.values() if r.size_bytes == size).most_common(3)
        names = ", ".join(w for w, _ in who)
        lines.append(f"  + {n:5} x {size:>14,}  alive in the prediction alone; such sizes: {names}")
    return lines


def compare(recorded: Recorded, predicted: Phases, options: argparse.Namespace) -> bool:
    """Print the comparison; True where every event of the phases in common agrees."""
    mine: Phases = recorded.phases
    if not options.exact_order:
        mine, predicted = ({name: frees_sorted(rs) for name, rs in side.items()} for side in (mine, predicted))
    found = difference(mine, predicted)
    print("\n".join(phase_table(mine, predicted, found)))
    wanted = [name for name in found if found[name] and (not options.phase or name in options.phase)]
    if not wanted:
        print("\nevery event of these phases agrees")
    for name in wanted if options.phase else wanted[:1]:
        print(f"\n{name}: {'all' if options.phase else 'the first phase that differs:'} {len(found[name])} places")
        for hunk in found[name][: options.hunks]:
            print("\n".join(hunk_lines(hunk, mine[name], predicted[name])))
    print("\nadded up:", *summary(mine, predicted, found, options.most), sep="\n")
    print("\nat the recorded peak:", *at_peak(mine, predicted, options.most), sep="\n")
    return not any(found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("history")
    parser.add_argument("--case", help="another case than the history names")
    parser.add_argument("--cases", help="file that defines CASES, where the case is not one of benchmarks/cases.py")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--phase", action="append", help="show the places in this phase; may be repeated")
    parser.add_argument("--hunks", type=int, default=8, help="places to show in a phase")
    parser.add_argument("--exact-order", action="store_true", help="mind the order of consecutive frees too")
    parser.add_argument("--most", type=int, default=25, help="lines of each sum")
    options = parser.parse_args()
    recorded = read(options.history)
    head = recorded.head
    import estimator

    case = load_cases(options.cases)[options.case or head["case"]]
    device = target_device(head["compute_capability"], head["multi_processor_count"], head["total_memory"])
    estimate = estimator.estimate(job_of(case), device=device, torch_version=head["torch_version"].split("+")[0])
    return 0 if compare(recorded, predicted_phases(estimate, options.batch or head["batch"]), options) else 1


if __name__ == "__main__":
    sys.exit(main())
