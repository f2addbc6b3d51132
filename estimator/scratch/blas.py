"""cuBLAS and cuBLASLt workspaces: how large, how long they live, which thread owns them."""

from __future__ import annotations

from estimator.device import Target
from estimator.environment import cublas_workspace_bytes, cublaslt_workspace_bytes, unifies_cublaslt
from estimator.graph import Op
from estimator.scratch.registry import Confidence, Scratch

_SMALL = 2 * 4096 * 1024 + 8 * 16 * 1024
"""`:4096:2:16:8`, the sum of two buffers of 4 MiB and eight of 16 KiB."""
_LARGE = 32 << 20
_LT = 1 << 20
_UNIFIED_FROM, _EAGER_FROM = (2, 12), (2, 15)


def workspace_bytes(target: Target) -> int:
    """Bytes of a cuBLAS workspace: those of `CUBLAS_WORKSPACE_CONFIG`, else torch's choice.

    Source: aten/src/ATen/cuda/CublasHandlePool.cpp, `parseChosenWorkspaceSize`: torch 2.11 gives 32 MiB to capability
    9.0 alone, 2.12 and 2.13 to majors 9, 10 and 12, 2.15 to 11 too.
    """
    given = cublas_workspace_bytes(target.environment)
    if given is not None:
        return given
    capability = target.device.compute_capability or (0, 0)
    if target.torch_release < _UNIFIED_FROM:
        large = capability == (9, 0)
    else:
        majors = (9, 10, 12) if target.torch_release < _EAGER_FROM else (9, 10, 11, 12)
        large = capability[0] in majors
    return _LARGE if large else _SMALL


def _lt_bytes(target: Target) -> int:
    """Bytes of a cuBLASLt workspace of its own: never more than cuBLAS'.

    Source: measured: simulated card, 2.11: 4 MiB where 4096 are asked for, 128 KiB beside `:16:8`, nothing beside `:0:0`.
    """
    given = cublaslt_workspace_bytes(target.environment)
    return min(_LT if given is None else given, workspace_bytes(target))


def _confidence(target: Target) -> Confidence:
    # 2.11 was measured; later versions were read in their sources, 2.14 in neither way.
    return "exact" if target.torch_release == (2, 11) else "modelled"


def _thread(op: Op) -> str:
    return "backward" if op.backward_thread else "main"


def cublas(op: Op, target: Target) -> list[Scratch]:
    """The workspace a cuBLAS call finds or makes: one a thread, kept for the life of the process.

    From 2.15 each call takes its own and gives it back.

    Source: CublasHandlePool.cpp, `setWorkspaceForHandle`, `getCurrentCUDABlasHandleWithWorkspace` (2.15).
    Measured on 2.11: one for the main thread, one more for autograd's device thread.
    """
    kept = target.torch_release < _EAGER_FROM
    key = f"cublas:{_thread(op)}" if kept else None
    return [Scratch(workspace_bytes(target), key=key, confidence=_confidence(target))]


def cublaslt(op: Op, target: Target) -> list[Scratch]:
    """What a cuBLASLt call takes: before 2.12 a workspace of its own besides cuBLAS's; then that of cuBLAS.

    `TORCH_CUBLASLT_UNIFIED_WORKSPACE` chooses between the two. From 2.15 again its own, for the length of the call.

    Source: CublasHandlePool.cpp, `getCUDABlasLtWorkspace`, `unified_cublas_and_lt_workspaces`. Measured on 2.11.
    """
    if target.torch_release >= _EAGER_FROM:
        return [Scratch(_lt_bytes(target), confidence="modelled")]
    unified = unifies_cublaslt(target.environment)
    if target.torch_release >= _UNIFIED_FROM if unified is None else unified:
        return cublas(op, target)
    return [*cublas(op, target), Scratch(_lt_bytes(target), key=f"cublaslt:{_thread(op)}", confidence=_confidence(target))]
