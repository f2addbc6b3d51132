"""Autocast: CUDA's lists and cache over the CPU's key, and what user code asks of it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from logged import run

from estimator.semantics import autocast

pytestmark = pytest.mark.torch

BLOCKS = {
    "LOWER_PRECISION_FP": autocast.LOWER_PRECISION - {"cudnn_convolution", "cudnn_convolution_transpose"},
    "FP32": autocast.FP32,
    "FP32_SET_OPT_DTYPE": autocast.FP32_SET_OPT_DTYPE,
    "PROMOTE": autocast.PROMOTE,
}


@pytest.mark.parametrize("block", BLOCKS)
def test_lists_are_those_of_the_installed_torch(block: str) -> None:
    """The table in the code is what include/ATen/autocast_mode.h of this torch says."""
    header = (Path(torch.__file__).parent / "include/ATen/autocast_mode.h").read_text()
    body = re.search(rf"#define AT_FORALL_{block}\(_\)(.*?)\n\n", header, re.S)
    assert body is not None
    pairs = re.findall(r"_\((\w+)(?:, (\w+))?\)", body[1])
    names = {f"{name}.{overload}" if overload else name for name, overload in pairs}
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    wanted = {name for name in BLOCKS[block] if release >= autocast.FP32_SINCE.get(name, (0, 0))}
    assert names - autocast.BY_DIMENSION_NAMES == wanted
    by_name = block == "FP32_SET_OPT_DTYPE" and release < (2, 13)
    assert names & autocast.BY_DIMENSION_NAMES == (autocast.BY_DIMENSION_NAMES if by_name else set())


def test_every_op_of_cudas_autocast_is_known() -> None:
    """No op is cast on CUDA in a way the table does not know: there is no warning."""
    overlays: list = []
    run(lambda: None, overlays=overlays)
    assert overlays[0].warnings == []


def linear_twice() -> None:
    x = torch.empty(4, 8, device="cuda")
    w = torch.empty(8, 8, device="cuda", requires_grad=True)
    b = torch.empty(8, device="cuda", requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        F.linear(F.linear(x, w, b), w, b)


def test_weights_are_cast_once_and_the_last_argument_first() -> None:
    """Bias, weight, input: gcc evaluates arguments from the right. The second call finds both weights in the cache."""
    log = run(linear_twice)
    assert [op for op in log.ops if op.startswith(("_to_copy", "addmm"))] == [
        "_to_copy bfloat16[8]", "_to_copy bfloat16[8,8]", "_to_copy bfloat16[4,8]", "addmm bfloat16[4,8]", "addmm bfloat16[4,8]",
    ]  # fmt: skip


def test_cache_ends_with_the_outermost_context_and_can_be_switched_off() -> None:
    """Two contexts in a row cast twice; two nested ones once; `cache_enabled=False` casts at each use."""

    def casts(outer: bool, cache: bool) -> int:
        def function() -> None:
            w = torch.empty(8, 8, device="cuda", requires_grad=True)
            x = torch.empty(4, 8, device="cuda", dtype=torch.float16)
            with torch.autocast("cuda") if outer else contextlib.nullcontext():
                for _ in range(2):
                    with torch.autocast("cuda", cache_enabled=cache):
                        torch.mm(x, w)

        return run(function).kernels.count("_to_copy")

    assert [casts(False, True), casts(True, True), casts(True, False)] == [2, 1, 2]


def test_a_cast_made_without_gradients_serves_with_gradients() -> None:
    """The cached copy keeps its way back to the weight though it was made under no_grad (2.11 and 2.13 do so)."""

    def function() -> None:
        x, w = torch.empty(4, 8, device="cuda"), torch.empty(8, 8, device="cuda", requires_grad=True)
        with torch.autocast("cuda"):
            with torch.no_grad():
                torch.mm(x, w)
            out = torch.mm(x, w)
        assert out.requires_grad
        assert out.dtype is torch.float16  # CUDA's default

    run(function)


def test_ops_that_only_the_cpu_casts_are_left_alone() -> None:
    """CUDA runs these in the type they come in; the CPU's autocast would widen or promote them."""

    def function() -> None:
        half = torch.empty(2, 4, 6, 6, device="cuda", dtype=torch.bfloat16)
        with torch.autocast("cuda", torch.bfloat16):
            assert F.pad(half, (1, 1, 1, 1), mode="reflect").dtype is torch.bfloat16
            assert torch.stack([half, half]).dtype is torch.bfloat16
            assert F.layer_norm(half, (6,)).dtype is torch.float32  # and this one only CUDA
            assert F.softmax(half, -1).dtype is torch.float32
            assert half.pow(2).dtype is torch.float32
            assert half.sum().dtype is torch.float32
            assert half.norm().dtype is torch.float32
            assert torch.addcmul(half, half, half.float()).dtype is torch.float32

    run(function)


def test_state_is_cudas() -> None:
    """Asking for "cuda" tells what is in force; "cpu" is another switch, which does nothing to device tensors."""

    def function() -> None:
        x = torch.empty(4, 4, device="cuda")
        with torch.autocast("cpu", torch.bfloat16):
            assert not torch.is_autocast_enabled("cuda")
            assert torch.mm(x, x).dtype is torch.float32
        with torch.amp.autocast("cuda", dtype=torch.bfloat16):
            assert torch.is_autocast_enabled("cuda")
            assert torch.get_autocast_dtype("cuda") is torch.bfloat16
            assert not torch.is_autocast_enabled("cpu")
            with torch.autocast("cuda", enabled=False):
                assert torch.mm(x, x).dtype is torch.float32
        assert not torch.is_autocast_enabled("cuda")

    run(function)


def test_custom_functions_see_it() -> None:
    """`custom_fwd(device_type="cuda", cast_inputs=...)` casts device tensors and runs without autocast."""

    class Cast(torch.autograd.Function):
        @staticmethod
        @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float16)
        def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
            assert x.dtype is torch.float16
            assert not torch.is_autocast_enabled("cuda")
            return x * 2

        @staticmethod
        @torch.amp.custom_bwd(device_type="cuda")
        def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> torch.Tensor:
            assert grad.is_cuda
            return grad * 2

    def function() -> None:
        x = torch.empty(4, device="cuda", requires_grad=True)
        with torch.autocast("cuda"):
            Cast.apply(x).sum().backward()

    run(function)


def test_banned_loss_is_refused_as_on_cuda() -> None:
    """`binary_cross_entropy` on probabilities raises under CUDA's autocast."""

    def function() -> None:
        x = torch.empty(4, device="cuda")
        with torch.autocast("cuda"):
            F.binary_cross_entropy(x, x)

    with pytest.raises(RuntimeError, match="unsafe to autocast"):
        run(function)
