"""Scratch rules of three-way products, softmax, workspaces by variables, and what is only assumed."""

from __future__ import annotations

import pytest

from estimator.device import DeviceProfile, Target
from estimator.devices.nccl import nccl_interval
from estimator.errors import JobError
from estimator.graph import Op, TensorSpec
from estimator.job import TrainingJob
from estimator.scratch import scratch_of, unknown_ops

pytestmark = pytest.mark.pure

MIB = 1 << 20


def target(capability: tuple[int, int] = (8, 0), version: str = "2.11.0", **environment: str) -> Target:
    device = DeviceProfile(
        name="card", kind="cuda", total_bytes=1 << 34, compute_capability=capability, multiprocessor_count=108
    )
    return Target(device=device, torch_version=version, environment=environment)


def dense(*shape: int, order: tuple[int, ...] | None = None) -> TensorSpec:
    """A float32 tensor whose dimensions lie in memory in `order`, the outermost first."""
    stride, step = [0] * len(shape), 1
    for d in reversed(order or range(len(shape))):
        stride[d], step = step, step * shape[d]
    return TensorSpec("float32", shape, tuple(stride))


def op(name: str, args: tuple[object, ...], *outputs: TensorSpec, backward: bool = False) -> Op:
    return Op(name, args, {}, outputs, "", "step0.forward", backward, 0)


@pytest.mark.parametrize(
    ("args", "out", "sizes"),
    [
        # Measured on a simulated card, 2.11: nn.Bilinear(64, 32, 3) on 256 rows, forward and the gradients of both inputs
        # and of the weight. Two products a slice; the first lives until the second is there.
        (((256, 64), (3, 64, 32), (256, 32), (1, 3), (0,), (1, 2), (2, 3)), (256, 3), (32768, 1024)),
        (((256, 3), (3, 64, 32), (256, 32), (2, 3), (0,), (1, 2), (1, 3)), (256, 64), (2097152, 65536)),
        (((256, 64), (256, 3), (256, 32), (1, 3), (2, 3), (1, 2), (0,)), (3, 64, 32), (65536, 8192)),
    ],
)
def test_a_three_way_product_takes_two_products_a_slice(
    args: tuple[tuple[int, ...], ...], out: tuple[int, ...], sizes: tuple[int, int]
) -> None:
    tensors = tuple(dense(*shape) for shape in args[:3])
    found = scratch_of(op("aten._trilinear.default", (*tensors, *args[3:]), dense(*out)), target())
    assert [s.size_bytes for s in found if s.key is None] == [*sizes] * 3
    assert {s.size_bytes for s in found if s.key is not None} <= {8_519_680}


@pytest.mark.parametrize(
    ("shape", "size", "align_corners", "sizes"),
    [
        # Measured on a simulated card, 2.11: F.affine_grid before its result, the base grid and each axis' steps.
        ((128, 2, 3), (128, 1, 64, 64), False, [6_291_456] + [256] * 6),
        ((64, 2, 3), (64, 1, 50, 70), True, [64 * 50 * 70 * 3 * 4, 70 * 4, 50 * 4]),
    ],
)
def test_an_affine_grid_is_made_from_a_plain_one(
    shape: tuple[int, ...], size: tuple[int, ...], align_corners: bool, sizes: list[int]
) -> None:
    call = op("aten.affine_grid_generator.default", (dense(*shape), size, align_corners), dense(size[0], *size[2:], 2))
    found = scratch_of(call, target())
    assert [s.size_bytes for s in found] == sizes
    assert all(s.when == "before" for s in found)
    assert [s.freed_after for s in found] == [None] + ([0, 0] if align_corners else [2, 1, 0] * 2)


def test_the_gradient_of_windows_counts_their_places() -> None:
    """Measured on a simulated card, 2.11: x.unfold(1, 16, 8) of 128 places."""
    call = op("aten.unfold_backward.default", (dense(64, 15, 64, 16), (64, 128, 64), 1, 16, 8), dense(64, 128, 64))
    assert [s.size_bytes for s in scratch_of(call, target())] == [1024]


@pytest.mark.parametrize(
    ("grad", "output", "count"), [("c", "c", 1), ("t", "c", 2), ("c", "t", 2), ("t", "t", 3), ("e", "c", 1), ("e", "t", 3)]
)
def test_softmax_gradient_copies_what_does_not_lie_in_order(grad: str, output: str, count: int) -> None:
    """Measured on a simulated card, 2.11: allocations of 24,000 bytes besides the result, for each layout."""
    spec = {
        "c": dense(10, 20, 30), "t": dense(10, 20, 30, order=(1, 0, 2)),
        "e": TensorSpec("float32", (10, 20, 30), (0, 0, 1)),
    }  # fmt: skip
    call = op("aten._softmax_backward_data.default", (spec[grad], spec[output], -1, "float32"), spec["c"])
    assert [s.size_bytes for s in scratch_of(call, target())] == [24_000] * count


@pytest.mark.parametrize(
    ("environment", "capability", "plain", "lt"),
    [
        # Measured on a simulated card, 2.11: bytes after a product without bias, and more after one with bias.
        ({}, (8, 0), 8_519_680, MIB),
        ({"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}, (8, 0), 33_554_432, MIB),
        ({"CUBLAS_WORKSPACE_CONFIG": ":16:8"}, (8, 0), 131_072, 131_072),
        ({"CUBLAS_WORKSPACE_CONFIG": ":0:0"}, (8, 0), 0, 0),
        ({"CUBLASLT_WORKSPACE_SIZE": "4096"}, (8, 0), 8_519_680, 4 * MIB),
        ({"CUBLASLT_WORKSPACE_SIZE": "0"}, (8, 0), 8_519_680, 0),
        ({"TORCH_CUBLASLT_UNIFIED_WORKSPACE": "1"}, (8, 0), 8_519_680, 0),
        ({"CUBLASLT_WORKSPACE_SIZE": "4096", "TORCH_CUBLASLT_UNIFIED_WORKSPACE": "1"}, (9, 0), 33_554_432, 0),
    ],
)
def test_workspaces_follow_the_variables_of_the_run(
    environment: dict[str, str], capability: tuple[int, int], plain: int, lt: int
) -> None:
    a, b = dense(64, 64), dense(64)
    here = target(capability, **environment)
    product = {s.key: s.size_bytes for s in scratch_of(op("aten.mm.default", (a, a), a), here)}
    biased = {s.key: s.size_bytes for s in scratch_of(op("aten.addmm.default", (b, a, a), a), here)}
    assert sum(product.values()) == plain
    assert sum((product | biased).values()) == plain + lt


def test_later_releases_share_one_workspace() -> None:
    a, b = dense(64, 64), dense(64)
    call = op("aten.addmm.default", (b, a, a), a)
    assert [s.size_bytes for s in scratch_of(call, target((10, 0), "2.12.0"))] == [32 * MIB]
    apart = target((10, 0), "2.13.0", TORCH_CUBLASLT_UNIFIED_WORKSPACE="0")
    assert [s.size_bytes for s in scratch_of(call, apart)] == [32 * MIB, MIB]


@pytest.mark.parametrize(
    "environment",
    [{"PATH": "/"}, {"CUDA_MODULE_LOADING": "SOMETIMES"}, {"CUBLAS_WORKSPACE_CONFIG": "4096"}, {"NCCL_BUFFSIZE": "4M"}],
)
def test_variables_that_say_nothing_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(JobError, match="environment"):
        TrainingJob(model=object(), batch=object(), optimizer="sgd", environment=environment)


def test_a_process_group_has_an_interval_of_its_own() -> None:
    assert nccl_interval(None, {}) == (0, 0, 0)
    low, likely, high = nccl_interval(8, {})
    # 512 KiB + 4800 KiB + 4 MiB, rounded up to 10 MiB, and 2 MiB to send: 2 channels of a ring, 32 of ring and trees.
    assert low == 2 * 12 * MIB
    assert high == 32 * 5 * 12 * MIB
    assert low < likely < high
    assert nccl_interval(8, {"NCCL_BUFFSIZE": str(16 * MIB)})[0] == 2 * 24 * MIB
    assert nccl_interval(1, {})[0] == 0


def test_solvers_are_named_and_bounded() -> None:
    a = dense(4, 64, 64)
    name = "aten.linalg_cholesky_ex.default"
    (found,) = scratch_of(op(name, (a,), a), target())
    assert found.confidence == "assumed"
    assert (found.low_bytes, found.size_bytes, found.high_bytes) == (0, 65_536, 262_144)
    assert "cuSOLVER" in unknown_ops(target())[name]


def test_what_no_bound_is_known_for_is_said_not_to_be_covered() -> None:
    """cuDNN's batch norm has none; a solver's work space has one, and the high end counts it."""
    from types import SimpleNamespace
    from typing import Any

    from estimator.assemble import _unknown_scratch

    solver, norm = "aten.linalg_qr.default", "aten.cudnn_batch_norm.default"
    model = SimpleNamespace(
        ops=[SimpleNamespace(name=solver), SimpleNamespace(name=norm)], assumed=lambda n: {solver: (0, 262_144)}
    )
    evaluator: Any = SimpleNamespace(model=model)
    texts = [w.message for w in _unknown_scratch(evaluator, target(), 8)]
    assert [("does not cover" in t, "high end counts" in t) for t in texts] == [(False, False), (True, False), (False, True)]


def test_infinity_is_looked_for_in_the_magnitudes() -> None:
    """`abs` of 6 floats of 4 B stands before there is a result; whole numbers are not looked at."""
    flags = TensorSpec("bool", (2, 3), (3, 1))
    floats, whole = dense(2, 3), TensorSpec("int64", (2, 3), (3, 1))
    found = scratch_of(Op("aten.isinf.default", (floats,), {}, (flags,)), target())
    assert [(s.size_bytes, s.when) for s in found] == [(24, "before")]
    assert scratch_of(Op("aten.isinf.default", (whole,), {}, (flags,)), target()) == ()
