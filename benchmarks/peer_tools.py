"""Other tools asked the same question: bytes for one case at one batch size. Each function is one tool.

Every tool gets what its documentation asks for, and no more help than that. A tool raises where it cannot take a case.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.cases import Case


class Tool(NamedTuple):
    """How to ask one tool, and what its answer is to be held against."""

    ask: Callable[[Case, int], int]
    against: str
    """The peak of the truth that the answer claims to be: `allocated` or `reserved`."""
    package: str
    """What pip installs; "" for a part of torch."""
    note: str


def mem_tracker(case: Case, samples: int) -> int:
    """Peak of two steps of the case's loop under MemTracker, on fake CPU tensors."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    from benchmarks import procedure

    tracker = MemTracker()

    with FakeTensorMode(allow_non_fake_inputs=True):
        model = procedure.build(dataclasses.replace(case, channels_last=False), "cpu")
        if case.channels_last:  # Module.to cannot swap fake parameters
            torch.nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)
        optimizer = case.optimizer([p for p in model.parameters() if p.requires_grad])
        tracker.track_external(model, optimizer)
        with tracker:
            for _ in range(2):
                tracker.reset_mod_stats()
                batch = procedure.to_device(case, case.batch(samples), "cpu")
                optimizer.zero_grad(set_to_none=True)
                with contextlib.ExitStack() as stack:
                    if case.precision in procedure.AUTOCAST:
                        stack.enter_context(torch.autocast("cpu", procedure.AUTOCAST[case.precision]))
                    loss = case.loss(model, batch)
                loss.backward()
                optimizer.step()
    peak: dict[Any, dict[Any, int]] = tracker.get_tracker_snapshot("peak")
    return int(peak[torch.device("cpu")]["Total"])


def torchinfo(case: Case, samples: int) -> int:
    """Parameters, input and twice the modules' outputs; forward on meta, or on the CPU where the model reads values."""
    from torchinfo import summary  # type: ignore[import-not-found]

    how = {"mode": "train", "verbose": 0}
    try:
        found = summary(build_model(case, "meta"), input_data=[inputs(case, samples, "meta")], device="meta", **how)
    except RuntimeError:
        found = summary(build_model(case, "cpu"), input_data=[inputs(case, samples, "cpu")], device="cpu", **how)
    return int(found.total_input + found.total_output_bytes + found.total_param_bytes)


def accelerate_estimate(case: Case, samples: int) -> int:
    """What `accelerate estimate-memory` prints as "Training using Adam (Peak vRAM)"; it has no batch size."""
    from accelerate.commands.estimate import estimate_training_usage  # type: ignore[import-not-found]
    from accelerate.utils import calculate_maximum_sizes  # type: ignore[import-not-found]

    total, _ = calculate_maximum_sizes(build_model(case, "meta", float32=True))
    precision = {"amp-bf16": "bfloat16", "bf16": "bfloat16", "amp-fp16": "float16"}.get(case.precision, "float32")
    return int(max(estimate_training_usage(total, precision).values()))


def kitsune(case: Case, samples: int) -> int:
    """`predict_memory` of torch-kitsune; it takes one float input and no loss. On meta half of its methods fail."""
    from kitsune import predict_memory  # type: ignore[import-not-found]

    x = case.batch(1)[0]
    dtype = "bfloat16" if "bf16" in case.precision else "float32"
    found = predict_memory(
        build_model(case, "cpu"), input_shape=tuple(x.shape[1:]), batch_size=samples, dtype=dtype,
        optimizer=optimizer_name(case),
    )  # fmt: skip
    return int(found.total_bytes)


def preflight(case: Case, samples: int) -> int:
    """torch-preflight's guard on the live model, its flat CUDA context taken off."""
    from torch_preflight.vram import costmodel  # type: ignore[import-not-found]
    from torch_preflight.vram.guard import VRAMGuard  # type: ignore[import-not-found]

    model = build_model(case, "meta")
    guard = VRAMGuard(
        model, optimizer=case.optimizer(model.parameters()), batch_size=samples, example_input=case.batch(1)[0],
        precision={"fp32": "fp32", "bf16": "pure-bf16", "fp16": "pure-fp16"}.get(case.precision, "amp"),
    )  # fmt: skip
    if guard.activation_source == "unknown":
        raise ValueError("its measurement of the activations failed, which it reports as unknown")
    breakdown = costmodel.estimate(guard.profile, guard.config).breakdown
    return int(breakdown.total - breakdown.cuda_context)


def vram_check(case: Case, samples: int) -> int:
    """`analyze` of vram-check: a multiple of the parameters."""
    from vram_check import estimate, inspect  # type: ignore[import-not-found]

    count = inspect(build_model(case, "meta")).trainable_params
    x = case.batch(1)[0]
    dtype = "bf16" if case.precision == "bf16" else "fp32"
    length = x.shape[1] if x.dim() == 2 else 128
    found = estimate(count, batch_size=samples, dtype=dtype, optimizer=optimizer_name(case), seq_len=length)
    return int(found.total_bytes)


TOOLS = {
    "MemTracker": Tool(mem_tracker, "allocated", "", "torch.distributed._tools on fake CPU tensors, two steps"),
    "torchinfo": Tool(torchinfo, "allocated", "torchinfo", "its estimated total size, forward on meta"),
    "accelerate": Tool(accelerate_estimate, "allocated", "accelerate psutil", "training with Adam, whatever the batch"),
    "torch-kitsune": Tool(kitsune, "reserved", "torch-kitsune", "predict_memory with its 15 % on top"),
    "torch-preflight": Tool(preflight, "reserved", "torch-preflight libcst", "VRAMGuard, without its CUDA context"),
    "vram-check": Tool(vram_check, "allocated", "vram-check", "parameters times constants"),
}


def build_model(case: Case, device: str, float32: bool = False) -> nn.Module:
    """The case's model, in the dtype of its precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if case.precision == "bf16" and not float32 else torch.float32)
    try:
        with torch.device(device):
            model: nn.Module = case.model()
    finally:
        torch.set_default_dtype(before)
    return model.train()


def inputs(case: Case, samples: int, device: str) -> torch.Tensor:
    """The first tensor of a batch: these tools run the model, not the loss."""
    x = case.batch(samples)[0].to(device)
    return x.bfloat16() if case.precision == "bf16" and x.is_floating_point() else x


def optimizer_name(case: Case) -> str:
    """`adam`, `adamw` or `sgd`: what the tools' own options call the case's optimizer."""
    return type(case.optimizer([nn.Parameter(torch.zeros(1))])).__name__.lower()
