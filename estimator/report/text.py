"""The answer as text: what fits, where the memory goes, what limits it, and everything that is not certain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from estimator.job import TrainingJob
from estimator.report.host import write_host
from estimator.report.page import Page
from estimator.units import format_bytes

if TYPE_CHECKING:
    from estimator.result import BatchEstimate, Counts, Estimate

_LABELS = {"cuda_context": "CUDA context", "nccl": "NCCL communicator"}
_CPU_LABELS = {"cuda_context": "process baseline"}
_MOST_MODULES = 20
_ALWAYS_SAID = ("precision", "mode", "optimizer")


def write_estimate(
    page: Page, estimate: Estimate, requested: BatchEstimate | None = None, *, verbose: bool = False
) -> None:
    """Write the whole report; `verbose` adds phases, modules and the device's sources.

    Args:
        page: where to.
        estimate: the answer.
        requested: `estimate.at(n)` of a batch size that was asked about besides.
        verbose: more of the same facts.
    """
    _title(page, estimate, verbose)
    _answer(page, estimate, requested)
    batches = [estimate.best]
    if requested is not None and requested.batch_size != estimate.best.batch_size:
        batches.append(requested)
    for batch in batches:
        _memory(page, estimate, batch, with_notes=batch is estimate.best)
        _peaks(page, batch)
        if verbose:
            _phases(page, batch)
    if estimate.host is not None:
        write_host(page, estimate.host)
    _counts(page, estimate.counts)
    if verbose:
        _modules(page, estimate)
        _device(page, estimate)
    _warnings(page, estimate)
    if estimate.seconds:
        page.heading("Time")
        page.line(
            ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in estimate.seconds.items()), indent=2, hang=0
        )


def _title(page: Page, estimate: Estimate, verbose: bool) -> None:
    device = estimate.device
    title = f"{device.title} ({device.name})" if device.title and device.title != device.name else device.name
    page.heading(f"{estimate.job} on {title}, PyTorch {estimate.torch_version}")
    settings = [
        f"{name.replace('_', ' ')} {_text(value)}"
        for name, value in estimate.settings.items()
        if _worth_saying(name, value, verbose)
    ]
    if settings:
        page.line(", ".join(settings), indent=2, hang=0)


def _worth_saying(name: str, value: object, verbose: bool) -> bool:
    """Whether a setting belongs in the title: one that is not what every job has, and always what matters most."""
    if value is None or value == "":
        return False
    field = TrainingJob.model_fields.get(name)
    return verbose or name in _ALWAYS_SAID or field is None or value != field.default


def _answer(page: Page, estimate: Estimate, requested: BatchEstimate | None) -> None:
    largest, following = estimate.max_batch_size, estimate.next
    style = "bold green" if largest else "bold red"
    page.heading(
        f"Largest batch that fits: {largest}" if largest else "Largest batch that fits: 0 (not even one sample fits)",
        style=style,
    )
    rows = [
        (
            "without retries",
            f"{estimate.max_batch_size_without_retries} (largest batch for which the allocator never has to give "
            "segments back)",
        ),
        (
            "at the low end",
            f"{estimate.max_batch_size_low} (largest batch if every figure that is not exact is at its lowest)",
        ),
    ]
    if estimate.limited_by:
        rows.append(("limited by", estimate.limited_by))
    if following is not None:
        rows.append((f"next, {following.batch_size}", _verdict(following, said=estimate.limited_by)))
    if requested is not None:
        rows.append((f"asked, {requested.batch_size}", _verdict(requested)))
    page.pairs(rows)


def _verdict(batch: BatchEstimate, said: str = "") -> str:
    """Whether a batch fits, by how much, and where it runs out unless that is `said` already."""
    size, capacity = format_bytes(batch.device_bytes), format_bytes(batch.capacity_bytes)
    if batch.fits:
        return f"fits: {size} of {capacity}, {format_bytes(batch.headroom_bytes)} left"
    high = batch.device_interval.high_bytes
    needs = f"{size} (high end: {format_bytes(high)})" if format_bytes(high) != size else size
    short = f", {format_bytes(high - batch.capacity_bytes)} more than there is" if high > batch.capacity_bytes else ""
    place = f"; runs out at {batch.oom_at}" if batch.oom_at and batch.oom_at not in said else ""
    return f"does not fit: needs {needs} of {capacity}{short}{place}"


def _memory(page: Page, estimate: Estimate, batch: BatchEstimate, *, with_notes: bool) -> None:
    labels = _CPU_LABELS if estimate.device.kind == "cpu" else _LABELS
    name = "peak resident memory" if estimate.device.kind == "cpu" else "device memory"
    page.heading(f"Memory at batch {batch.batch_size}, when it is highest")
    rows = [
        [
            _label(line.name, labels),
            format_bytes(line.size_bytes),
            f"{line.size_bytes:,}",
            format_bytes(line.per_sample_bytes) if line.per_sample_bytes else "-",
            line.confidence,
        ]
        for line in batch.lines
    ]
    total = sum(line.size_bytes for line in batch.lines)
    for label, size in ((name, total), ("headroom", batch.headroom_bytes), ("capacity", batch.capacity_bytes)):
        rows.append([label, format_bytes(size), f"{size:,}", "", ""])
    columns = [("category", False), ("size", True), ("bytes", True), ("per sample", True), ("known", False)]
    page.table(columns, rows, totals=3)
    off = total - batch.device_bytes
    page.line(
        f"The {len(batch.lines)} lines sum to the {name}: {total:,} bytes."
        if off == 0
        else f"The {len(batch.lines)} lines sum to {total:,} bytes, {abs(off):,} {'more' if off > 0 else 'less'} than "
        f"the {name} of {batch.device_bytes:,}: this is a defect of batch-estimator, please report it.",
        indent=2,
        hang=0,
        style=None if off == 0 else "bold red",
    )
    if with_notes:
        page.pairs([(_label(line.name, labels), line.note) for line in batch.lines if line.note])


def _label(name: str, labels: Mapping[str, str]) -> str:
    return labels.get(name, name.replace("_", " "))


def _peaks(page: Page, batch: BatchEstimate) -> None:
    page.heading(f"Peaks at batch {batch.batch_size}")
    low, high = batch.device_interval.low_bytes, batch.device_interval.high_bytes
    figures = (
        ("requested", batch.peak_requested_bytes),
        ("allocated", batch.peak_allocated_bytes),
        ("reserved", batch.peak_reserved_bytes),
        ("device", batch.device_bytes),
    )
    columns = [("peak", False), ("size", True), ("bytes", True), ("low", True), ("high", True)]
    rows = [
        [
            name,
            format_bytes(size),
            f"{size:,}",
            *((format_bytes(low), format_bytes(high)) if name == "device" else ("", "")),
        ]
        for name, size in figures
    ]
    page.table(columns, rows)
    place = [("phase", batch.peak_phase), ("module", batch.peak_module or "(root)"), ("op", batch.peak_op)]
    if batch.oom_at:
        place.append(("runs out at", batch.oom_at))
    if batch.num_alloc_retries:
        place.append(
            ("retries", f"{batch.num_alloc_retries} (cached segments given back to the device and tried again)")
        )
    page.pairs(
        [(f"peak {label}" if label in ("phase", "module", "op") else label, value) for label, value in place if value]
    )


def _phases(page: Page, batch: BatchEstimate) -> None:
    if batch.phases:
        page.heading(f"Peak allocated by phase at batch {batch.batch_size}")
        page.table(
            [("phase", False), ("size", True), ("bytes", True)],
            [[phase, format_bytes(size), f"{size:,}"] for phase, size in batch.phases.items()],
        )


def _counts(page: Page, counts: Counts) -> None:
    page.heading("Counts")
    trainable = (
        f", {counts.trainable_parameter_count:,} trainable"
        if counts.trainable_parameter_count != counts.parameter_count
        else ""
    )
    rows = [
        (
            "parameters",
            f"{counts.parameter_count:,}{trainable} ({format_bytes(counts.parameter_bytes)})"
            + _fvcore(counts.fvcore_parameter_count, counts.parameter_count),
        ),
        ("buffers", format_bytes(counts.buffer_bytes)),
        ("gradients", format_bytes(counts.gradient_bytes)),
        ("optimizer state", format_bytes(counts.optimizer_state_bytes)),
        (
            "activations",
            f"{format_bytes(counts.activation_bytes_per_sample)} per sample"
            + (
                f"; fvcore counts {counts.fvcore_activation_count:,} outputs of convolutions and matrix products"
                if counts.fvcore_activation_count is not None
                else ""
            ),
        ),
    ]
    if counts.flops_per_sample is not None:
        rows.append(
            ("flops", f"{counts.flops_per_sample:,} per sample{_fvcore(counts.fvcore_flops, counts.flops_per_sample)}")
        )
    elif counts.fvcore_flops is not None:
        rows.append(("flops", f"{counts.fvcore_flops:,} per sample by fvcore"))
    page.pairs(rows)


def _fvcore(theirs: int | None, ours: int) -> str:
    if theirs is None:
        return ""
    return "; fvcore agrees" if theirs == ours else f"; fvcore counts {theirs:,}"


def _modules(page: Page, estimate: Estimate) -> None:
    if not estimate.modules:
        return
    most = sorted(estimate.modules, key=lambda m: -(m.parameter_bytes + m.activation_bytes + m.temporary_bytes))
    page.heading(
        f"Modules at batch {estimate.best.batch_size} (the {min(len(most), _MOST_MODULES)} largest of {len(most)})"
    )
    page.table(
        [("module", False), ("parameters", True), ("activations", True), ("temporaries", True)],
        [
            [
                m.module or "(root)",
                *(format_bytes(size) for size in (m.parameter_bytes, m.activation_bytes, m.temporary_bytes)),
            ]
            for m in most[:_MOST_MODULES]
        ],
    )


def _device(page: Page, estimate: Estimate) -> None:
    if estimate.device.sources:
        page.heading(f"Where the figures of {estimate.device.name} come from")
        page.pairs(list(estimate.device.sources.items()))


def _warnings(page: Page, estimate: Estimate) -> None:
    if not estimate.warnings:
        return
    page.heading(f"Warnings ({len(estimate.warnings)})", style="bold yellow")
    for warning in estimate.warnings:
        where = f" [{warning.where}]" if warning.where else ""
        page.line(f"{warning.code}: {warning.message}{where}", indent=2)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
