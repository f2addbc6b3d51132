"""The coverage as Markdown: sums by group, every failure with its cause, every model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

from benchmarks.coverage_models import GROUPS

_PACKAGES = ("torch", "torchvision", "timm", "transformers", "peft")


def markdown(found: Sequence[dict[str, Any]], listed: Mapping[str, int] | None = None) -> str:
    """The report of the results, in the order of the groups; `listed` says how many models each group has."""
    return "\n".join([*_head(), *_left(found, listed or {}), *sums(found), "", *_failures(found), "", *_all(found)]) + "\n"


def _head() -> Iterator[str]:
    yield "# Coverage"
    yield ""
    yield "Made by `python -m benchmarks.coverage` (what is traced, and how, stands in its docstring) with"
    yield f"{', '.join(filter(None, map(_version, _PACKAGES)))} on {date.today()}. CPU seconds, wall seconds and peak RSS are of one model's"
    yield "process, a fork of one that has imported the libraries; other work ran on the machine at the same time, which"
    yield "the wall seconds show."
    yield ""


def _left(found: Sequence[dict[str, Any]], listed: Mapping[str, int]) -> Iterator[str]:
    """What was not run, which is neither traced nor failed."""
    counts = {group: listed.get(group, 0) - sum(f["group"] == group for f in found) for group in GROUPS}
    left = [f"{count} of {listed[group]} of {group}" for group, count in counts.items() if count > 0]
    if left:
        yield f"Not run, and counted nowhere below: {', '.join(left)}."
        yield ""


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def sums(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A row for each group, and one for all."""
    yield "| | models | traced | share | and with a tiny real run | median CPU s | most CPU s | median s | most s | most RSS MiB |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    groups = [(group, [f for f in found if f["group"] == group]) for group in GROUPS]
    for group, of in (*groups, ("all", list(found))):
        if not of:
            continue
        good = [f for f in of if f["ok"]]
        real = sum(f.get("with_real_run") is True for f in of)
        seconds, cpu = ([f[name] for f in good] or [0.0] for name in ("seconds", "cpu_seconds"))
        rss = max((f["peak_rss_bytes"] for f in good), default=0)
        yield (
            f"| {group} | {len(of)} | {len(good)} | {len(good) / len(of):.1%} | {len(good) + real} |"
            f" {median(cpu):.1f} | {max(cpu):.1f} | {median(seconds):.1f} | {max(seconds):.1f} | {rss / 2**20:.0f} |"
        )


def _failures(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    failed = [f for f in found if not f["ok"]]
    if not failed:
        yield "Nothing failed."
        return
    yield "| not traced | kind | cause | where | with a tiny real run |"
    yield "|---|---|---|---|---|"
    for f in failed:
        real = f.get("with_real_run")
        outcome = "-" if real is None else "traced" if real is True else _cell(str(real), 100)
        where = f["where"].rpartition("site-packages/")[2]
        yield (
            f"| {f['group']}/{f['name']} | {f['kind']} | {_cell(f['got'] or f['what'], 160)} | {_cell(where, 120)} |"
            f" {outcome} |"
        )


def _all(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| model | parameters | steps | ops | CPU s | s | RSS MiB | warnings |"
    yield "|---|---|---|---|---|---|---|---|"
    for group in GROUPS:
        for f in sorted((f for f in found if f["group"] == group and f["ok"]), key=lambda f: str(f["name"])):
            yield (
                f"| {group}/{f['name']} | {f['parameter_count']:,} | {f['steps']} | {f['ops']} | {f['cpu_seconds']:.1f} | {f['seconds']:.1f} |"
                f" {f['peak_rss_bytes'] / 2**20:.0f} | {', '.join(f['warnings'])} |"
            )


def _cell(text: str, most: int) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= most else text[: most - 1] + "…"
