"""Environment variables of the run that change what it takes of a device, read as the libraries read them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from estimator.units import KIB

KNOWN = {
    "CUDA_MODULE_LOADING": "LAZY (PyTorch's default) or EAGER",
    "CUBLAS_WORKSPACE_CONFIG": "pairs of a size in KiB and a count, such as :4096:8",
    "CUBLASLT_WORKSPACE_SIZE": "KiB",
    "TORCH_CUBLASLT_UNIFIED_WORKSPACE": "1 or 0",
    "NCCL_BUFFSIZE": "bytes",
}
"""Name -> what it takes. `PYTORCH_ALLOC_CONF` is `TrainingJob.alloc_conf`."""


def problem(environment: Mapping[str, str]) -> str:
    """What is wrong with the variables, "" where nothing is."""
    for name, value in environment.items():
        if name not in KNOWN:
            return f"{name} is not known to change memory; known: {', '.join(KNOWN)} (PYTORCH_ALLOC_CONF is alloc_conf)"
        if name == "CUDA_MODULE_LOADING" and value not in ("LAZY", "EAGER"):
            return f"{name} takes {KNOWN[name]}, not {value!r}"
        if name in ("CUBLASLT_WORKSPACE_SIZE", "NCCL_BUFFSIZE") and not value.isdecimal():
            return f"{name} takes a whole number of {KNOWN[name]}, not {value!r}"
        if name == "CUBLAS_WORKSPACE_CONFIG" and cublas_workspace_bytes(environment) is None:
            return f"{name} takes {KNOWN[name]}, not {value!r}"
        if name == "TORCH_CUBLASLT_UNIFIED_WORKSPACE" and value not in ("0", "1"):
            return f"{name} takes {KNOWN[name]}, not {value!r}"
    return ""


def cublas_workspace_bytes(environment: Mapping[str, str]) -> int | None:
    """Bytes that `CUBLAS_WORKSPACE_CONFIG` asks for, None where it is not set or says nothing.

    Source: aten/src/ATen/cuda/CublasHandlePool.cpp, `parseChosenWorkspaceSize`, 2.11: the sum of SIZE KiB x COUNT.
    """
    pairs = re.findall(r":(\d+):(\d+)", environment.get("CUBLAS_WORKSPACE_CONFIG", ""))
    return sum(int(size) * int(count) for size, count in pairs) * KIB if pairs else None


def cublaslt_workspace_bytes(environment: Mapping[str, str]) -> int | None:
    """Bytes that `CUBLASLT_WORKSPACE_SIZE` asks for, None where it is not set.

    Source: CublasHandlePool.cpp, `parseCUDABlasLtWorkspaceSize`, 2.11: KiB.
    """
    given = environment.get("CUBLASLT_WORKSPACE_SIZE")
    return None if given is None else int(given) * KIB


def unifies_cublaslt(environment: Mapping[str, str]) -> bool | None:
    """Whether cuBLASLt shall use cuBLAS' workspace; None where the variable is not set and torch's default holds.

    Source: CublasHandlePool.cpp, `unified_cublas_and_lt_workspaces`.
    """
    given = environment.get("TORCH_CUBLASLT_UNIFIED_WORKSPACE")
    return None if given is None else given == "1"
