"""Add to a table of convolution workspaces what its trees have wrong of the usual convolutions.

    python -m benchmarks.conv_exceptions usual.jsonl.gz --table estimator/scratch/conv_plans/8.0.json

The rows are those of `benchmarks.conv_sample --usual`; of layers that have a line (`benchmarks.conv_lines`) none is
kept. Prints how many there are, and in how many a tree is wrong by more
than half of the allocator's step.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.conv_asker import MULTIPROCESSORS
from benchmarks.conv_forms import CLOSE
from benchmarks.conv_sample import read_rows
from estimator.device import DeviceProfile, Target
from estimator.scratch import conv_lines, conv_workspace


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", type=Path)
    parser.add_argument("--table", type=Path, required=True)
    options = parser.parse_args()
    head, rows = read_rows(options.rows)
    capability = (int(head["capability"][0]), int(head["capability"][1]))
    device = DeviceProfile(name="card", kind="cuda", total_bytes=80 << 30, compute_capability=capability,
                           multiprocessor_count=MULTIPROCESSORS[capability])  # fmt: skip
    target = Target(device=device, torch_version="2.11.0")
    conv_workspace.load_plans(capability).pop("exceptions", None)  # the trees alone are asked
    lines = conv_lines.load(capability)
    exceptions = {
        conv_workspace.fingerprint(call): size
        for _, call, size in rows
        if (lines is None or conv_lines.look_up(call, lines) is None) and abs(conv_workspace.look_up(call, target).size_bytes - size) > CLOSE
    }
    print(f"{len(rows)} convolutions, {len(exceptions)} exceptions")
    add_exceptions(options.table, exceptions)
    return 0


def add_exceptions(table: Path, exceptions: dict[str, int]) -> None:
    """Write them into the table as its last entry, in the place of those it has."""
    body = table.read_text().split(',\n"exceptions":')
    kept = body[0] if len(body) > 1 else body[0].rstrip().removesuffix("}").rstrip()
    table.write_text(
        f'{kept},\n"exceptions":{json.dumps(dict(sorted(exceptions.items())), separators=(",", ":"))}\n}}\n'
    )


if __name__ == "__main__":
    sys.exit(main())
