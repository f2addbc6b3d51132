"""Attention: the kernel that is chosen, and what is done around it. Expectations are the 2.11 CUDA build's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from logged import run
from torch.nn.attention import SDPBackend, sdpa_kernel

from estimator.semantics.attention_choice import Call, Rules, choose

pytestmark = pytest.mark.torch

KINDS = {
    "_scaled_dot_product_flash_attention": "flash",
    "_scaled_dot_product_efficient_attention": "efficient",
    "_scaled_dot_product_cudnn_attention": "cudnn",
    "_safe_softmax": "math",
}
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


def attend(
    query: tuple[int, ...], key: tuple[int, ...] | None = None, dtype: torch.dtype = BF16, mask: Any = None, grad: bool = True,
    backward: bool = False, **kwargs: Any,
) -> Any:  # fmt: skip
    def made(shape: tuple[int, ...]) -> torch.Tensor:
        batch, heads, length, size = shape
        laid = torch.empty((batch, length, heads, size), device="cuda", dtype=dtype)
        return laid.transpose(1, 2).detach().requires_grad_(grad)

    def function() -> None:
        q, k, v = made(query), made(key or query), made(key or query)
        m = torch.ones(mask, dtype=torch.bool, device="cuda") if mask is not None else None
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=m, **kwargs)
        if backward:
            out.sum().backward()

    return function


def kind(log: Any) -> str:
    return next(KINDS[name] for name in log.kernels if name in KINDS)


PLAIN = (2, 4, 64, 32)
CASES: list[tuple[str, dict[str, Any], str]] = [
    # what, call, kernel at 7.5 / 8.0 / 8.6 / 9.0 / 10.0 / 12.0
    ("float32 never runs flash or cuDNN", {"query": PLAIN, "dtype": FP32}, "efficient " * 6),
    ("bfloat16 needs 8.0", {"query": PLAIN}, "math flash flash cudnn cudnn flash"),
    ("half", {"query": PLAIN, "dtype": FP16}, "efficient flash flash cudnn cudnn flash"),
    ("flash takes no mask, cuDNN does", {"query": PLAIN, "mask": (2, 1, 64, 64)}, "math efficient efficient cudnn cudnn efficient"),
    ("cuDNN takes no 3-D mask", {"query": PLAIN, "mask": (4, 64, 64)}, "math efficient efficient efficient efficient efficient"),
    ("heads not a multiple of 8 are padded for flash", {"query": (2, 4, 64, 20)}, "math flash flash flash flash flash"),
    ("no mask can be padded with them", {"query": (2, 4, 64, 20), "mask": (64, 64)}, "math " * 6),
    ("head size 160: cuDNN up to 256 only at 9.0", {"query": (2, 4, 64, 160)}, "math flash flash cudnn flash flash"),
    ("training at 256 with dropout fails on 8.6", {"query": (2, 4, 64, 256), "dropout_p": 0.1}, "math flash efficient cudnn flash efficient"),
    ("beyond 256 only efficient is left", {"query": (2, 4, 64, 512)}, "math efficient efficient efficient efficient efficient"),
    ("causal needs equal lengths in flash", {"query": (2, 4, 50, 32), "key": (2, 4, 70, 32), "is_causal": True},
     "math efficient efficient cudnn cudnn efficient"),
    ("grouped queries", {"query": (2, 8, 64, 32), "key": (2, 2, 64, 32), "enable_gqa": True}, "math flash flash cudnn cudnn flash"),
    ("grouped queries in float32 have only math", {"query": (2, 8, 64, 32), "key": (2, 2, 64, 32), "enable_gqa": True, "dtype": FP32}, "math " * 6),
]  # fmt: skip
CAPABILITIES = ((7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0))


def chosen(
    capability: tuple[int, int], query: tuple[int, ...], key: tuple[int, ...] | None = None, dtype: torch.dtype = BF16,
    mask: tuple[int, ...] | None = None, dropout_p: float = 0.0, is_causal: bool = False, enable_gqa: bool = False,
) -> str:  # fmt: skip
    q, k, v = (torch.empty(s, dtype=dtype, device="meta", requires_grad=True) for s in (query, key or query, key or query))
    m = None if mask is None else torch.empty(mask, dtype=torch.bool, device="meta")
    return choose(Call(q, k, v, m, dropout_p, is_causal, enable_gqa), Rules(capability, (2, 11))).name.lower()


@pytest.mark.parametrize(("call", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_kernel_is_the_one_cuda_chooses(call: dict[str, Any], expected: str) -> None:
    """The kernel follows dtype, mask, head size, flags and compute capability (measured, 2.11.0+cu130)."""
    assert [chosen(capability, **call) for capability in CAPABILITIES] == expected.split()


def test_cudnn_refuses_odd_dropout_since_2_12() -> None:
    """cuDNN rounds dropout to sixteenths; torch stays away from it then since 2.12 (pytorch#174245)."""
    call = attend(PLAIN, dropout_p=0.1)
    assert kind(run(call, (9, 0), "2.11.0")) == "cudnn"
    assert kind(run(call, (9, 0), "2.12.0")) == "flash"
    assert kind(run(attend(PLAIN, dropout_p=0.125), (9, 0), "2.12.0")) == "cudnn"


def test_user_settings_are_respected() -> None:
    """`sdpa_kernel` and the `enable_*_sdp` switches of the user decide first."""

    def math_only() -> None:
        with sdpa_kernel(SDPBackend.MATH):
            attend(PLAIN)()

    def none_fits() -> None:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            attend(PLAIN, dtype=FP32)()

    assert kind(run(math_only)) == "math"
    with pytest.raises(RuntimeError, match="No available kernel"):
        run(none_fits)


def test_flash_results_are_laid_out_like_the_query() -> None:
    """Output and gradients keep [B, T, H, D] in memory; logsumexp is (B, H, T); the seeds are two small device tensors."""
    log = run(attend(PLAIN, backward=True))
    results = "bfloat16[2,4,64,32], float32[2,4,64], uint64[2], uint64[], bfloat16[0]"
    assert f"_scaled_dot_product_flash_attention {results}" in log.ops
    assert log.kernels[-1] == "_scaled_dot_product_flash_attention_backward"


def test_efficient_kernel_keeps_its_seed_on_the_host() -> None:
    """Its logsumexp is padded to 32 rows, and there is none without gradients."""
    with_grad = run(attend((2, 4, 50, 32), dtype=FP32)).ops[-1]
    without = run(attend((2, 4, 50, 32), dtype=FP32, grad=False)).ops[-1]
    assert with_grad.endswith("float32[2,4,50,32], float32[2,4,64], int64[]@host, int64[]@host")
    assert without.endswith("float32[2,4,50,32], float32[2,4,0], int64[]@host, int64[]@host")


def test_cudnn_gives_no_logsumexp_without_gradients() -> None:
    """Seed and offset are device tensors."""
    log = run(attend(PLAIN, grad=False), (9, 0))
    assert log.ops[-1] == "_scaled_dot_product_cudnn_attention bfloat16[2,4,64,32], int64[], int64[]"


def test_mask_is_made_additive_and_aligned_for_the_efficient_kernel() -> None:
    """A boolean mask becomes one in the query's type, its rows padded to 8 elements, then expanded over the heads."""
    log = run(attend((2, 4, 63, 32), mask=(2, 1, 63, 63)))
    start = log.names.index("ones") + 1
    assert log.ops[start : start + 5] == [
        "scalar_tensor bfloat16[]", "scalar_tensor bfloat16[]", "where.self bfloat16[2,1,63,63]",
        "constant_pad_nd bfloat16[2,1,63,64]", "slice.Tensor bfloat16[2,1,63,63]",
    ]  # fmt: skip


def test_math_path_adds_the_mask_in_place() -> None:
    """On tensors with data the scores take the mask in place; half inputs are worked on in float32."""
    log = run(attend((2, 4, 64, 20), mask=(64, 64)))
    assert "add_.Tensor float32[2,4,64,64]" in log.ops
    assert log.ops[-1] == "_to_copy bfloat16[2,4,64,20]"
