"""Lengths of a data set as text: how they are spread, what they leave of the batch, which batches run out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from estimator.report.page import Page
from estimator.units import format_bytes

if TYPE_CHECKING:
    from estimator.data.records import Distribution, Lengths, Row, Share

_BAR = 40
BY_LONGEST = "Largest batch by its longest sample"
ROW_HEADS = [
    ("percentile", True), ("longest", True), ("batch", True), ("padded", True), ("memory", True),
    ("random batches of that size that run out", False),
]  # fmt: skip
"""Titles of columns, and whether numbers stand below."""


def write_lengths(page: Page, found: Lengths) -> None:
    """Write the whole answer."""
    page.heading(f"{found.job} on {found.device}, PyTorch {found.torch_version}: lengths of {found.data.source}")
    _distribution(page, found.data)
    page.heading(BY_LONGEST)
    page.table(ROW_HEADS, length_rows(found))
    rows = batch_rows(found)
    if rows:
        page.heading("Batches")
        page.pairs(rows)
    page.line(traced_text(found), indent=2, hang=0)
    if found.warnings:
        page.heading(f"Warnings ({len(found.warnings)})", style="bold yellow")
        for warning in found.warnings:
            where = f" [{warning.where}]" if warning.where else ""
            page.line(f"{warning.code}: {warning.message}{where}", indent=2)


def length_rows(found: Lengths) -> list[list[str]]:
    """Under `ROW_HEADS`: the largest batch at each percentile, and what becomes of random batches of that size."""
    return [_row(row) for row in found.rows]


def batch_rows(found: Lengths) -> list[tuple[str, str]]:
    """What is known of the batches that were asked about, of the worst, of an epoch, and of padded tokens."""
    rows = []
    if found.asked is not None:
        rows.append((f"batches of {found.asked.batch_size}", _share(found.asked, full=True)))
    if found.worst is not None:
        w = found.worst
        verdict = "fits" if w.fits else "does not fit"
        rows.append(
            (
                "worst batch",
                f"{w.batch_size} x {w.length} = {w.padded:,} padded ({w.why}): {format_bytes(w.device_bytes)} of "
                f"{format_bytes(w.capacity_bytes)}, {verdict}",
            )
        )
    if found.epoch is not None:
        e = found.epoch
        sizes = (
            str(e.most_batch_size)
            if e.least_batch_size == e.most_batch_size
            else (f"{e.least_batch_size} to {e.most_batch_size}")
        )
        unknown = f", {e.unknown_count} may" if e.unknown_count else ""
        rows.append(
            (
                "epoch",
                f"{e.batch_count:,} batches of {sizes} samples, at most {e.most_padded:,} padded: "
                f"{e.out_of_memory_count:,} run out{unknown}",
            )
        )
    if found.tokens is not None:
        t = found.tokens
        rows.append(("max_tokens", f"{t.max_tokens:,} padded (held down by length {t.at_length})"))
    return rows


def traced_text(found: Lengths) -> str:
    """The lengths that were traced, and what is taken for granted between them."""
    return (
        f"Traced at {len(found.points)} lengths: {', '.join(str(p.size) for p in found.points)}. Between them memory is "
        "taken to grow with the longest sample of a batch (for max_tokens: in a straight line or steeper)"
        + (", which no traced length contradicts." if found.monotone else ": traced lengths contradict that, see below.")
    )


def spread_text(data: Distribution) -> str:
    """How many samples there are, and how long."""
    cut = f"; {data.cut_count:,} are cut" if data.cut_count else ""
    return (
        f"{data.count:,} samples of {data.shortest} to {data.longest}, mean {data.mean:.1f}, {data.distinct_count:,} "
        f"different lengths{cut}; "
        + ", ".join(f"{percent} % up to {length}" for percent, length in data.percentiles.items() if percent != "100")
    )


def _distribution(page: Page, data: Distribution) -> None:
    page.line(spread_text(data), indent=2, hang=0)
    most = max(b.count for b in data.histogram)
    rows = [[str(b.low), str(b.high), f"{b.count:,}", "#" * (-(-_BAR * b.count // most))] for b in data.histogram]
    page.table([("from", True), ("to", True), ("samples", True), ("", False)], rows)


def _row(row: Row) -> list[str]:
    name = "longest" if row.percentile == 100 else f"{row.percentile:g}"
    if row.max_batch_size is None:
        return [name, str(row.length), "-", "", "", "not predicted"]
    return [
        name,
        str(row.length),
        f"{row.max_batch_size:,}",
        f"{row.max_batch_size * row.length:,}",
        format_bytes(row.device_bytes),
        _share(row.share) if row.share is not None else "one sample does not fit",
    ]


def _share(share: Share, *, full: bool = False) -> str:
    if share.exact:
        text = "none" if share.low == 0 else "all" if share.low == 1 else _percent(share.low)
    else:
        text = f"{_percent(share.low)} to {_percent(share.high)}"
    if not full:
        return text
    fits, fails = share.longest_that_fits, share.shortest_that_does_not
    known = "; ".join(
        filter(
            None,
            (
                f"up to length {fits} they fit" if fits is not None else "none is known to fit",
                f"from {fails} on they do not" if fails is not None else "",
            ),
        )
    )
    return f"{text} of the random ones run out ({known}; their longest is {share.expected_longest:.1f} in the mean)"


def _percent(value: float) -> str:
    return f"{100 * value:.4g} %"
