"""`torch.cuda` and `torch.accelerator` as the target would answer, while a trace runs."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from estimator.semantics.overlay import Overlay


def install(overlay: Overlay) -> None:
    """Let `torch.cuda` speak for the target: one device, its properties, and nothing to wait for."""
    device = overlay.target.device
    major, minor = overlay.capability
    properties = SimpleNamespace(
        name=device.title or device.name, major=major, minor=minor, total_memory=device.total_bytes,
        multi_processor_count=device.multiprocessor_count, max_threads_per_multi_processor=device.threads_per_multiprocessor,
        warp_size=32, is_integrated=0, is_multi_gpu_board=0, gcnArchName=f"sm_{major}{minor}",
    )  # fmt: skip

    def this_card(answer: Any) -> Any:
        overlay.asked_device = True
        return answer

    def this_capability(answer: Any) -> Any:
        overlay.holds_for(())
        return answer

    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: this_card(properties.name),
        "get_device_capability": lambda device=None: this_capability((major, minor)),
        "get_device_properties": lambda device=None: this_card(properties),
        "is_bf16_supported": lambda including_emulation=True: including_emulation or this_capability(major >= 8),
        "is_tf32_supported": lambda: this_capability(major >= 8),
        "can_device_access_peer": lambda device, peer_device: False,
        "get_arch_list": lambda: this_capability([f"sm_{major}{minor}"]),
        "is_current_stream_capturing": lambda: False,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "ipc_collect": lambda: None,
        "mem_get_info": lambda device=None: this_card((device_free(overlay), device_total(overlay))),
        "set_per_process_memory_fraction": lambda fraction, device=None: None,
        "memory_stats": lambda device=None: {},
        "memory_summary": lambda device=None, abbreviated=False: "",
        "memory_snapshot": lambda *args, **kwargs: [],
        "reset_peak_memory_stats": lambda device=None: None,
        "reset_max_memory_allocated": lambda device=None: None,
        "reset_max_memory_cached": lambda device=None: None,
        "reset_accumulated_memory_stats": lambda device=None: None,
        "utilization": lambda device=None: 0,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "seed": lambda: None,
        "seed_all": lambda: None,
        "initial_seed": lambda: 0,
        "get_rng_state": lambda device="cuda": torch.get_rng_state(),
        "get_rng_state_all": lambda: [torch.get_rng_state()],
        "set_rng_state": lambda new_state, device="cuda": None,
        "set_rng_state_all": lambda new_states: None,
        "current_stream": lambda device=None: NoStream(),
        "default_stream": lambda device=None: NoStream(),
        "set_stream": lambda stream: None,
        "Stream": NoStream,
        "Event": NoEvent,
        "stream": nothing,
        "device": nothing,
        "device_of": nothing,
        "StreamContext": nothing,
    }
    for name in ("allocated", "reserved", "cached"):
        answers[f"memory_{name}"] = answers[f"max_memory_{name}"] = lambda device=None: 0
    for name, answer in answers.items():
        if hasattr(torch.cuda, name):
            overlay.patch(torch.cuda, name, answer)
    for name in ("range_push", "range_pop", "mark", "range_start", "range_end"):
        if hasattr(torch.cuda.nvtx, name):
            overlay.patch(torch.cuda.nvtx, name, lambda *args, **kwargs: 0)
    overlay.patch(torch.cuda.nvtx, "range", nothing)
    accelerator = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_accelerator": lambda check_available=False: torch.device("cuda"),
        "current_device_index": lambda: 0,
        "current_device_idx": lambda: 0,
        "set_device_index": lambda device: None,
        "synchronize": lambda device=None: None,
        "current_stream": lambda device=None: NoStream(),
        "empty_cache": lambda: None,
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "max_memory_reserved": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
    }
    for name, answer in accelerator.items():
        if hasattr(torch.accelerator, name):
            overlay.patch(torch.accelerator, name, answer)
    overlay.patch(torch.nn.DataParallel, "forward", _on_one_device)
    overlay.patch(torch, "Generator", _generator_class(torch.Generator, overlay))


def _on_one_device(parallel: torch.nn.DataParallel[Any], *inputs: Any, **kwargs: Any) -> Any:
    """Call the module itself, with what it is given moved there: one device has no replicas.

    Source: torch/nn/parallel/data_parallel.py, `DataParallel.forward`, 2.13; its scatter to one device takes views.
    """
    inputs, kwargs = tree_map_only(torch.Tensor, lambda t: t.to("cuda"), (inputs, kwargs))
    return parallel.module(*inputs, **kwargs)


def _generator_class(true: type[torch.Generator], overlay: Overlay) -> type:
    """Stand for `torch.Generator`: one for the device is one for the host, as no number is ever drawn."""

    class Meta(type):
        def __call__(cls, device: Any = "cpu") -> torch.Generator:
            return true("cpu") if overlay.active else true(device)

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, true)

    return Meta("Generator", (), {"__doc__": true.__doc__})


def device_total(overlay: Overlay) -> int:
    """Bytes of the whole card."""
    return overlay.target.device.total_bytes


def device_free(overlay: Overlay) -> int:
    """Free bytes as a fresh process would see them: capacity less its own context."""
    device = overlay.target.device
    return max(0, device.capacity_bytes - device.context_bytes)


class NoStream:
    """A stream on which nothing is queued."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.cuda_stream = 0
        self.device = torch.device("cuda", 0)

    def synchronize(self) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        return False

    def record_event(self, event: Any = None) -> Any:
        return event if event is not None else NoEvent()

    def __enter__(self) -> NoStream:
        return self

    def __exit__(self, *args: Any) -> None: ...


class NoEvent:
    """An event that has happened already."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def record(self, stream: Any = None) -> None: ...

    def wait(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, end_event: Any) -> float:
        return 0.0


class nothing(contextlib.ContextDecorator):
    """A context that does nothing, whatever it is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *args: Any) -> None: ...
