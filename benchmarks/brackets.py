"""Hold predicted largest batches against timm's own training benchmark: a batch that ran and the next that failed.

    python -m benchmarks.brackets FILE.csv [--sample 60] [--seed 0] [--only 'resnet*'] [--out FILE] [--report FILE]

FILE.csv has a row for each model: `model`, `img_size`, `fits_batch` (the largest of a ladder of batch sizes that ran),
`next_tried_batch_that_failed`, `memory_format` and `param_count_M`. Settings are those of timm's `benchmark.py` on an
RTX 3090 with torch 1.12: float16 autocast without a gradient scaler, SGD with Nesterov momentum in a for-loop, gradients
kept and set to zero, float32 weights, `cudnn.benchmark` on, attention by products and a softmax: torch 1.12 has no
`scaled_dot_product_attention`, and timm takes none where there is none. A prediction p is in the bracket where fits_batch <= p <
next_tried. The installed timm and torch are newer: a model whose parameter count is no longer that of the row is left
out and named. Every row is appended to `--out` at once, and a row that stands there is not asked again.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from benchmarks.children import in_child

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Batch sizes that the benchmark tried, from the largest downwards. Source: the values of the file's two columns."""
TOTAL_BYTES = int(23.70 * 2**30)
"""What torch of that time reports for the card. Source: OutOfMemoryError texts naming an RTX 3090: 23.70 GiB total."""
CONTEXT_BYTES = 1687 << 20
"""Source: pytorch/pytorch issue 55277: a context on an RTX 3090 before modules were loaded lazily."""
SAME_COUNT_SHARE = 0.006
"""The row's parameter count has two decimals of a million: 0.005 off, and of a count below a million 0.6 %."""


def predict(row: dict[str, str], cudnn_benchmark: bool) -> dict[str, Any]:
    """Predict the largest batch of one row: the work of a child process."""
    import estimator
    from estimator.devices import resolve_device
    from estimator.sources import JobOptions, load_job

    _attention_of_that_time()
    options = JobOptions(
        image_size=int(row["img_size"]), precision="amp-fp16", channels_last=row["memory_format"] == "channels_last"
    )
    job = load_job(f"timm:{row['model']}", options).with_(
        optimizer=_sgd, zero_grad_set_to_none=False, cudnn_benchmark=cudnn_benchmark, grad_scaler=False
    )
    card = resolve_device("rtx-3090").model_copy(
        update={
            "total_bytes": TOTAL_BYTES, "free_bytes": None, "context_bytes": CONTEXT_BYTES,
            "context_low_bytes": CONTEXT_BYTES, "context_high_bytes": CONTEXT_BYTES,
        }
    )  # fmt: skip
    answer = estimator.estimate(job, device=card, isolate=False)
    return {
        "predicted": answer.max_batch_size,
        "low_end": answer.max_batch_size_low,
        "parameter_count": answer.counts.parameter_count,
        "warnings": sorted({w.code for w in answer.warnings}),
    }


def _attention_of_that_time() -> None:
    """Let timm build its models as on a torch without fused attention. Source: timm/layers/config.py, `use_fused_attn`."""
    from timm.layers import set_fused_attn

    set_fused_attn(False)


def _sgd(parameters: Any) -> Any:
    import torch

    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, foreach=False)


def judged(row: dict[str, str], said: dict[str, Any]) -> dict[str, Any]:
    """A row with its prediction and how many rungs of the ladder that lies off the bracket (negative: below)."""
    out: dict[str, Any] = {
        "model": row["model"], "img_size": int(row["img_size"]), "memory_format": row["memory_format"],
        "ran": int(row["fits_batch"]), "failed": int(row["next_tried_batch_that_failed"]), **said,
    }  # fmt: skip
    if "predicted" not in said:
        return out
    count = float(row["param_count_M"])
    if abs(said["parameter_count"] / 1e6 - count) > max(0.0051, SAME_COUNT_SHARE * count):
        out["left_out"] = f"another model by now: {said['parameter_count'] / 1e6:.2f} M parameters, not {count:.2f} M"
    out |= {end: rungs_off(said[name], out["ran"]) for end, name in (("rungs", "predicted"), ("rungs_low", "low_end"))}
    return out


def rungs_off(predicted: int, ran: int) -> int:
    """Rungs between the batch that ran and the largest rung that is predicted to run."""
    below = sum(rung <= predicted for rung in LADDER)
    return below - sum(rung <= ran for rung in LADDER)


def sums(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What the rows come to, as a Markdown table: all, and by memory format."""
    yield "| rows | predicted | in the bracket | within one rung | above | below | low end in the bracket | between the ends |"
    yield "|---|---|---|---|---|---|---|---|"
    held = [r for r in rows if "rungs" in r and "left_out" not in r]
    for name in ("all", *sorted({r["memory_format"] for r in held})):
        of = [r for r in held if name in ("all", r["memory_format"])]
        if not of:
            continue

        def share(found: int, of: Sequence[Any] = of) -> str:
            return f"{found} ({found / len(of):.0%})"

        cells = (
            share(sum(r["rungs"] == 0 for r in of)), share(sum(abs(r["rungs"]) <= 1 for r in of)),
            share(sum(r["rungs"] > 0 for r in of)), share(sum(r["rungs"] < 0 for r in of)),
            share(sum(r["rungs_low"] == 0 for r in of)), share(sum(r["rungs"] <= 0 <= r["rungs_low"] for r in of)),
        )  # fmt: skip
        yield f"| {name} | {len(of)} | {' | '.join(cells)} |"


def markdown(rows: Sequence[dict[str, Any]], settings: str) -> str:
    """The report: sums, and every row."""
    out = ["# timm's brackets on an RTX 3090", ""]
    out += [f"Made by `python -m benchmarks.brackets` ({settings}) with torch {version('torch')}, timm {version('timm')} on {date.today()}.", ""]
    out += [*sums(rows), "", "| model | pixels | layout | ran | failed | predicted | at the low end | rungs off |"]
    out.append("|---|---|---|---|---|---|---|---|")
    for r in sorted(rows, key=lambda r: (r["model"], r["memory_format"])):
        head = f"| {r['model']} | {r['img_size']} | {r['memory_format']} | {r['ran']} | {r['failed']} |"
        why = r.get("left_out") or r.get("error")
        out.append(
            f"{head} {' '.join(str(why).split())[:140]} | | |" if why
            else f"{head} {r['predicted']} | {r['low_end']} | {r['rungs']:+d} |"
        )  # fmt: skip
    return "\n".join(out) + "\n"


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a file of JSON lines by model and layout; nothing where there is no such file."""
    if not path.exists():
        return {}
    found = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text.strip()]
    return {key_of(r): r for r in found}


def key_of(row: dict[str, Any]) -> str:
    """A row's name: model, image size and layout."""
    return f"{row['model']}@{row['img_size']} {row['memory_format']}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.csv")
    parser.add_argument("--sample", type=int, metavar="N", help="so many rows drawn at random; all if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="shell patterns over the models' names")
    parser.add_argument("--no-benchmark", action="store_true", help="predict with cudnn.benchmark off")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON lines; a file of the temporary folder by default")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a Markdown report there")
    parser.add_argument("--time-limit", type=float, default=600.0, metavar="SECONDS")
    options = parser.parse_args()
    path = options.out or Path(gettempdir()) / f"brackets{'-no-benchmark' if options.no_benchmark else ''}.jsonl"
    with options.file.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if options.only:
        rows = [r for r in rows if any(fnmatchcase(r["model"], pattern) for pattern in options.only)]
    if options.sample is not None and options.sample < len(rows):
        rows = random.Random(options.seed).sample(rows, options.sample)
    from benchmarks.coverage import warm_up

    warm_up(["timm"])
    done = read(path)
    for row in rows:
        if key_of(row) in done:
            continue
        said = in_child(partial(predict, row, not options.no_benchmark), options.time_limit)
        done[key_of(row)] = found = judged(row, {k: v for k, v in said.items() if k != "traceback"})
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        print(f"{key_of(row):60} {found['ran']:>4} {found['failed']:>4} {found.get('predicted', found.get('error'))}", flush=True)
    asked = [done[key_of(r)] for r in rows]
    print("\n".join(sums(asked)))
    if options.report:
        drawn = f"{len(asked)} rows, seed {options.seed}" if options.sample else f"{len(asked)} rows"
        settings = f"{drawn}, cudnn.benchmark {'off' if options.no_benchmark else 'on'}"
        options.report.write_text(markdown(asked, settings), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
