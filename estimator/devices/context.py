"""What a CUDA context takes of a card, where nobody has measured it: a rule with an interval.

A context without kernels follows the number of threads that the card can hold at once; kernels come on top as
they are loaded. Memory that NCCL takes is not part of it: a job with a process group needs more.
"""

from __future__ import annotations

from typing import Literal

from estimator.device import DeviceProfile
from estimator.errors import ConfigError
from estimator.units import MIB

ModuleLoading = Literal["LAZY", "EAGER"]

BYTES_PER_RESIDENT_THREAD = 2048
"""Source: measured: tests/data/context_reports.csv, rows `bare`: contexts of seven cards from 34 to 188
multiprocessors lie within 5 % of multiprocessors x resident threads x 2048 bytes."""

LOADED_MODULES_TYPICAL_BYTES = 80 * MIB
LOADED_MODULES_HIGH_BYTES = 224 * MIB
"""Bytes outside PyTorch's allocator in a process that computes, above its bare context.

Source: measured: tests/data/context_reports.csv, rows `step` (33 OutOfMemoryError texts: in use - allocated -
reserved but unallocated): median 79 MiB, largest 221 MiB; LAZY loading, mostly torch 2.1 to 2.11."""

EAGER_LOW_BYTES = 666_632_192 - 287_047_680
"""Source: pytorch/pytorch pull request 86509: the same program without and with LAZY loading, torch 1.13, CUDA 11.7."""
EAGER_HIGH_BYTES = (1687 - 256) * MIB
"""Source: pytorch/pytorch issue 55277: 1687 MiB on an RTX 3090 before LAZY loading, whose bare context is 256 MiB.
Bound: torch >= 2.11 holds more kernels than the torch of that report; no newer figure was found."""


def estimated_context(profile: DeviceProfile) -> tuple[int, int, int]:
    """Work out (low, typical, high) context bytes of a card from its multiprocessors, for LAZY module loading.

    Bound: low is the bare context less 5 %; jobs with NCCL, more CUDA libraries or many Triton kernels lie above high.
    """
    if profile.kind != "cuda":
        return (profile.context_bytes,) * 3
    threads = (profile.multiprocessor_count or 0) * profile.threads_per_multiprocessor
    bare = threads * BYTES_PER_RESIDENT_THREAD
    return bare * 95 // 100, bare + LOADED_MODULES_TYPICAL_BYTES, bare + LOADED_MODULES_HIGH_BYTES


def with_context(profile: DeviceProfile) -> DeviceProfile:
    """Give a CUDA profile that does not say what its context takes the estimated figures and their source.

    A profile that gives `context_bytes` alone is left as it is: then low and high are that figure too.
    """
    given = {"context_bytes", "context_low_bytes", "context_high_bytes"} & profile.model_fields_set
    if profile.kind != "cuda" or given:
        return profile
    low, typical, high = estimated_context(profile)
    source = (
        f"assumed: {profile.multiprocessor_count} multiprocessors x {profile.threads_per_multiprocessor} resident "
        f"threads x {BYTES_PER_RESIDENT_THREAD} bytes, and loaded modules (estimator/devices/context.py)"
    )
    sizes = {"context_bytes": typical, "context_low_bytes": low, "context_high_bytes": high}
    return profile.model_copy(update={**sizes, "sources": {**profile.sources, **dict.fromkeys(sizes, source)}})


def context_interval(profile: DeviceProfile, *, module_loading: ModuleLoading = "LAZY") -> tuple[int, int, int]:
    """Give (low, typical, high) context bytes of a device under a value of `CUDA_MODULE_LOADING`.

    PyTorch sets LAZY unless the variable is set; EAGER loads every kernel of every library at the start. Where a
    profile gives no interval, low and high are `context_bytes`. A CPU has no modules to load.

    Raises:
        ConfigError: another value than LAZY or EAGER.
    """
    if module_loading not in ("LAZY", "EAGER"):
        raise ConfigError(
            "not a way to load CUDA modules", got=repr(module_loading), allowed="LAZY (PyTorch's default) or EAGER",
            where="CUDA_MODULE_LOADING",
        )  # fmt: skip
    typical = profile.context_bytes
    low = typical if profile.context_low_bytes is None else profile.context_low_bytes
    high = typical if profile.context_high_bytes is None else profile.context_high_bytes
    if profile.kind != "cuda" or module_loading == "LAZY":
        return low, typical, high
    return low + EAGER_LOW_BYTES, typical + (EAGER_LOW_BYTES + EAGER_HIGH_BYTES) // 2, high + EAGER_HIGH_BYTES
