"""User code that names the CUDA device finds it on a machine without one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from logged import run, run_with_values
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from estimator.semantics import DEVICE

pytestmark = pytest.mark.torch
CUDA = torch.device("cuda", 0)


def where(t: Any) -> torch.device:
    return t.fake_device  # type: ignore[no-any-return]


def test_every_way_to_name_the_device() -> None:
    """All of them put the tensor on the traced device; what names none stays on the host."""

    def function() -> None:
        host = torch.empty(2)
        on_device = [
            host.cuda(), host.to("cuda"), host.to("cuda:0"), host.to(0), host.to(CUDA), host.to(device="cuda"),
            host.to("cuda", torch.float16), torch.empty(2, device="cuda"), torch.empty(2, device=0), torch.tensor([1.0], device="cuda"),
            torch.tensor(1.0, device="cuda"), torch.as_tensor([1, 2], device=CUDA), torch.zeros(2).cuda().new_ones(3),
            torch.ones_like(host, device="cuda"), nn.Linear(2, 2, device="cuda").weight, torch.arange(3, device=host.cuda().device),
        ]  # fmt: skip
        with torch.device("cuda"):
            on_device.append(torch.empty(2))
        assert [where(t) for t in on_device] == [DEVICE] * len(on_device)
        assert all(t.is_cuda and t.device == CUDA and t.get_device() == 0 and not t.is_cpu for t in on_device)
        on_host = [host, torch.empty(2, device="cpu"), on_device[0].cpu(), on_device[0].to("cpu"), torch.tensor(1.0), host.pin_memory()]
        assert [where(t) for t in on_host] == [torch.device("cpu")] * len(on_host)
        assert not any(t.is_cuda or t.device.type != "cpu" for t in on_host)

    run(function)


def test_modules_move_and_change_type() -> None:
    """`Module.cuda`, `.to`, `.half` and `.cpu` keep the parameters' identity, as with data."""

    def function() -> None:
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        before = list(module.parameters())
        module.cuda().half().to(memory_format=torch.channels_last)
        assert all(a is b for a, b in zip(before, module.parameters(), strict=True))
        assert {where(p) for p in module.parameters()} == {DEVICE}
        assert {p.dtype for p in module.parameters()} == {torch.float16}
        assert {p.device for p in module.cpu().parameters()} == {torch.device("cpu")}

    run(function)


def test_torch_cuda_speaks_for_the_target() -> None:
    """One device with the profile's properties, nothing to wait for, no bytes in use."""

    def function() -> None:
        assert torch.cuda.is_available()
        assert torch.cuda.device_count() == 1
        assert torch.cuda.current_device() == 0
        assert torch.cuda.get_device_capability() == (9, 0)
        properties = torch.cuda.get_device_properties(0)
        assert (properties.total_memory, properties.multi_processor_count) == (80 << 30, 108)
        assert torch.cuda.mem_get_info() == (80 << 30, 80 << 30)
        assert torch.cuda.is_bf16_supported()
        assert torch.cuda.memory_allocated() == torch.cuda.max_memory_reserved() == 0
        assert torch.accelerator.current_accelerator() == torch.device("cuda")
        torch.cuda.synchronize()
        torch.cuda.manual_seed_all(0)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.Event(enable_timing=True)
        start.record()
        with torch.cuda.stream(torch.cuda.Stream()), torch.cuda.device(0):
            assert start.elapsed_time(start) == 0.0
        assert isinstance(torch.Generator(device="cuda"), torch.Generator)

    run(function, (9, 0))


def test_custom_functions_and_hooks_run_at_the_users_level() -> None:
    """Python code inside of a backward pass still finds the device by its name."""
    seen: list[torch.device] = []

    class Named(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * torch.ones(2, device="cuda")

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            seen.append(grads[0].device)
            return grads[0] * torch.ones(2, device="cuda")

    def function() -> None:
        x = torch.empty(2, device="cuda", requires_grad=True)
        x.register_hook(lambda g: seen.append(g.device))
        checkpoint(lambda t: Named.apply(t) * torch.ones(2, device=t.device), x, use_reentrant=False).sum().backward()

    run(function)
    assert seen == [CUDA, CUDA]


def test_saved_tensors_can_go_to_the_host() -> None:
    """`save_on_cpu(pin_memory=True)` copies what is saved to the host and back."""

    def function() -> None:
        x = torch.empty(4, device="cuda", requires_grad=True)
        with save_on_cpu(pin_memory=True):
            y = x.exp()
        assert where(y) == DEVICE
        y.sum().backward()
        assert where(x.grad) == DEVICE

    run(function)


def test_numbers_set_by_index_are_not_made_on_the_device() -> None:
    """`x[:2] = 1` fills from a host scalar."""
    log = run(lambda: torch.empty(4, device="cuda").__setitem__(slice(2), 1.0))
    assert log.kernels == ["empty", "fill_"]


def test_grad_scaler_steps() -> None:
    """It works on device scalars and finds no overflow; the fused optimizer takes its scale."""
    moved: list[bool] = []

    def function() -> None:
        with torch.device("cuda"):
            model = nn.Linear(4, 4)
        for fused in (False, True):
            optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
            scaler = torch.amp.GradScaler("cuda")
            assert scaler.is_enabled()
            scaler.scale(model(torch.empty(2, 4, device="cuda")).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            moved.append(len(optimizer.state) == 2)

    run_with_values(function)
    assert moved == [True, True]


def _scaled(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sqrt(torch.tensor(x.size(-1), dtype=torch.float))


def test_libraries_may_script_functions_within_a_trace() -> None:
    """TorchScript takes a patched `torch.tensor` for the op; before, it tried to compile ours."""
    tensor = torch.tensor
    scripted: list[Any] = []
    run(lambda: scripted.append(torch.jit.script(_scaled)))
    assert torch.tensor is tensor
    assert "aten::tensor" in str(scripted[0].graph)
    assert scripted[0](torch.ones(1, 4)).tolist() == [[2.0] * 4]
