"""A made-up answer with every field filled, for tests of what is printed."""

from __future__ import annotations

from typing import Any

from estimator.device import DeviceProfile
from estimator.result import (
    CATEGORIES,
    BatchEstimate,
    CategoryLine,
    Counts,
    Estimate,
    Interval,
    ModuleBytes,
    TimelinePoint,
    Warning,
)
from estimator.units import GIB, MIB

DEVICE = DeviceProfile(
    name="card",
    title="A made-up card",
    kind="cuda",
    total_bytes=4 * GIB,
    context_bytes=300 * MIB,
    compute_capability=(8, 0),
    multiprocessor_count=108,
    sources={"total_bytes": "made up"},
)


def made_up_batch(size: int = 8, **changes: Any) -> BatchEstimate:
    """An estimate at `size` samples whose lines sum to its device bytes."""
    slopes = {"activations": 100 * MIB, "inputs": 600_000, "temporaries": 7}
    lines = tuple(
        CategoryLine(
            name=name,
            size_bytes=300 * MIB if name == "cuda_context" else (number + 1) * 1_000_003 + slopes.get(name, 0) * size,
            per_sample_bytes=slopes.get(name, 0),
            confidence=("exact", "modelled", "assumed")[number % 3],
            note=f"about {name}" if number % 4 == 0 else "",
        )
        for number, name in enumerate(CATEGORIES)
    )
    device_bytes = sum(line.size_bytes for line in lines)
    reserved = device_bytes - 300 * MIB
    fields: dict[str, Any] = {
        "batch_size": size,
        "fits": device_bytes <= DEVICE.capacity_bytes,
        "peak_requested_bytes": reserved - 5000,
        "peak_allocated_bytes": reserved - 3000,
        "peak_reserved_bytes": reserved,
        "device_bytes": device_bytes,
        "device_interval": Interval(low_bytes=device_bytes - 10 * MIB, high_bytes=device_bytes + 20 * MIB),
        "capacity_bytes": DEVICE.capacity_bytes,
        "headroom_bytes": DEVICE.capacity_bytes - device_bytes,
        "lines": lines,
        "peak_phase": "step1.backward",
        "peak_module": "layer4.2.conv3",
        "peak_op": "aten.convolution_backward.default",
        "phases": {"model": 100, "step0.forward": 2 * GIB},
    }
    return BatchEstimate(**{**fields, **changes})


def made_up_estimate(largest: int = 8, **changes: Any) -> Estimate:
    """An answer on `DEVICE`; with `largest=0` nothing fits."""
    fields: dict[str, Any] = {
        "job": "net",
        "settings": {"precision": "amp-bf16", "optimizer": "adamw", "channels_last": False, "accumulation_steps": 4},
        "device": DEVICE,
        "torch_version": "2.13.0",
        "max_batch_size": largest,
        "max_batch_size_low": largest + 1,
        "max_batch_size_without_retries": max(largest - 1, 0),
        "limited_by": "activations of layer4 in step1.backward",
        "best": made_up_batch(max(largest, 1), fits=largest > 0),
        "next": made_up_batch(largest + 1, fits=False, oom_at="step1.backward, aten.mm.default") if largest else None,
        "counts": Counts(
            parameter_count=1000,
            trainable_parameter_count=900,
            parameter_bytes=4000,
            activation_bytes_per_sample=100 * MIB,
            flops_per_sample=12,
            fvcore_parameter_count=1000,
            fvcore_flops=13,
        ),
        "modules": (ModuleBytes(module="", parameter_bytes=8), ModuleBytes(module="layer4", activation_bytes=9 * MIB)),
        "timeline": (TimelinePoint(event=0, phase="model", by_category={"parameter": 4000}),),
        "warnings": (Warning(code="conv-workspace-modelled", message="a word " * 30 + "end", where="conv1"),),
        "seconds": {"trace": 1.25, "solve": 0.5},
    }
    estimate = Estimate(**{**fields, **changes})
    held = {b.batch_size: b for b in (estimate.best, estimate.next) if b is not None}
    estimate._at = lambda size: held.get(size) or made_up_batch(size)
    return estimate
