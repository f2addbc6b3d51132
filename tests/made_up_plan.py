"""A plan that nobody solved, for tests of what is made of one: every kind of cell, and names that would do harm."""

from __future__ import annotations

from typing import Any

CATEGORIES = ("parameters", "optimizer_state", "activations", "temporaries")
GIB = 1 << 30


def solved(largest: int, capacity: int, **changes: Any) -> dict[str, Any]:
    """The result of a cell whose memory is 1 GiB and then 8 MiB a sample."""

    def need(n: int) -> int:
        return GIB + n * (8 << 20)

    points = 40
    wave = [min(i, points - i) * (largest << 18) for i in range(points)]
    best = max(1, largest)
    sizes = sorted({1, max(1, largest // 2), best, largest + 1})
    return {
        "error": None,
        "torch_version": "2.11.0",
        "settings": {"precision": "fp32", "accumulation_steps": 1, "optimizer": "adamw", "mode": "train"},
        "max_batch_size": largest,
        "max_batch_size_low": largest + 2,
        "max_batch_size_without_retries": largest,
        "fits": largest > 0,
        "confirmed_at": largest or None,
        "unlimited": False,
        "limited_by": f"batch {largest + 1} runs out in step1.backward",
        "batch_size": best,
        "device_bytes": need(best),
        "device_low_bytes": need(best) - (32 << 20),
        "device_high_bytes": need(best) + (32 << 20),
        "capacity_bytes": capacity,
        "headroom_bytes": capacity - need(best),
        "peak_requested_bytes": need(best) - (96 << 20),
        "peak_allocated_bytes": need(best) - (80 << 20),
        "peak_reserved_bytes": need(best) - (64 << 20),
        "num_alloc_retries": 0,
        "peak_phase": "step1.backward",
        "peak_module": "blocks.3.mlp",
        "peak_op": "aten.mm.default",
        "lines": [["parameters", GIB // 2, "exact"], ["activations", need(best) - GIB // 2, "modelled"]],
        "counts": {"parameter_count": 1000},
        "curve": [[n, need(n), need(n) - 1000, need(n) + 1000, n <= largest] for n in sizes],
        "timeline": {
            "step": "step1",
            "batch_size": best,
            "phases": [["batch", 0], ["forward", 4], ["backward", 20], ["optimizer", 36]],
            "events": list(range(100, 100 + points)),
            "by_category": {"parameters": [GIB // 2] * points, "activations": wave, "temporaries": wave[::-1]},
        },
        "modules": [
            ["blocks.3.mlp", 1 << 20, 3 << 20, 1 << 19],
            ["blocks.2", 1 << 20, 2 << 20, 0],
            ["(root)", 0, 1, 0],
        ],
        "warnings": [{"code": "context-assumed", "message": "the CUDA context is assumed", "where": ""}],
        "seconds": {"trace": 0.5},
        "wall_seconds": 1.0,
        **changes,
    }


def cell(
    job: str, precision: str, device: str, result: dict[str, Any] | None, price: float | None = None
) -> dict[str, Any]:
    status = "pending" if result is None else "error" if result["error"] else "ok" if result["fits"] else "does not fit"
    return {
        "job": job,
        "spec": "train.py:job",
        "options": {"precision": precision},
        "device": device,
        "status": status,
        "money": {"price": price, "cards_for_budget": 3 if price else None},
        **({"error": None, "warnings": [], "max_batch_size": None} if result is None else result),
    }


def failed(text: str) -> dict[str, Any]:
    return {
        "error": {"kind": "TraceError", "what": text, "text": f"{text}\n  where: train.py:3", "exit_code": 3},
        "max_batch_size": None,
        "fits": False,
        "warnings": [],
    }


def device(name: str, title: str, gib: int) -> dict[str, Any]:
    return {"name": name, "title": title, "kind": "cuda", "total_bytes": gib * GIB}


def document(job: str = "gpt", module: str = "blocks.3.mlp", title: str = "Capacity plan") -> dict[str, Any]:
    """Three jobs, two precisions, two devices; one cell does not fit, one failed, one is missing."""
    small, large = 24 * GIB, 80 * GIB
    cells = [
        cell(
            job, "fp32", "small", solved(100, small, peak_module=module, modules=[[module, 1 << 30, 2 << 30, 0]]), 0.5
        ),
        cell(job, "fp32", "large", solved(1200, large), 2.0),
        cell(job, "amp-bf16", "small", solved(180, small), 0.5),
        cell(job, "amp-bf16", "large", solved(2400, large, unlimited=True), 2.0),
        cell("wide", "fp32", "small", solved(0, small), 0.5),
        cell("wide", "fp32", "large", solved(9, large), 2.0),
        cell("broken", "fp32", "small", failed(f"the step of {job} reads values")),
        cell("broken", "fp32", "large", None),
    ]
    return {
        "schema_version": 1,
        "batch_estimator": "0.1.0",
        "title": title,
        "torch_version": "2.11.0",
        "currency": "EUR",
        "budget": 6.0,
        "global_batch": None,
        "varying": ["precision"],
        "devices": [device("small", "Small Card", 24), device("large", "Large Card", 80)],
        "jobs": [],
        "cells": cells,
    }
