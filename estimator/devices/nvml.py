"""NVIDIA's management library: what it says of the cards of this machine, as plain records.

Needs a driver but makes no CUDA context, so asking takes no memory of a card. The binding is `pynvml` of nvidia-ml-py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from estimator.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Card:
    """A card, or a MIG slice of one, as NVML gives it. Sizes in bytes, now."""

    index: int
    """NVML's index of the card: PCI bus order. A slice has that of its card."""
    uuid: str
    name: str
    total_bytes: int
    """All that the driver counts, reserved included."""
    reserved_bytes: int | None
    """What the driver keeps for itself; None where it is too old to say."""
    free_bytes: int
    compute_capability: tuple[int, int]
    core_count: int | None = None
    """CUDA cores of a whole card; None where the driver does not say."""
    multiprocessor_count: int | None = None
    """Of a slice; NVML does not give it for a whole card."""
    in_mig_mode: bool = False
    slices: tuple[Card, ...] = ()
    legacy_uuid: str = ""
    """Name of a slice under drivers before R470: MIG-GPU-<uuid>/<gpu instance>/<compute instance>."""


def read_cards() -> list[Card] | None:
    """Ask the driver for every card of the machine, in NVML's order; None where there is no NVIDIA driver.

    Warns where a driver's library is installed but its kernel module is not loaded: that may be a login node, a
    container without `--gpus`, or a driver that fails.

    Raises:
        DeviceError: there is a driver and it fails (its parts are of different versions, no permission, ...).
    """
    import pynvml

    try:
        with _session(pynvml):
            return [_read_card(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError_LibraryNotFound:
        return None
    except pynvml.NVMLError_DriverNotLoaded:
        warnings.warn(
            "NVIDIA's library is installed but its kernel driver is not loaded: no GPU is counted with (login node, "
            "container without a GPU, or a driver that needs repair)",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
    except pynvml.NVMLError as error:
        raise DeviceError(
            "the NVIDIA driver of this machine does not answer", got=str(error), where="NVML",
            hint="see what nvidia-smi says; a device can also be named, or device='cpu' given",
        ) from error  # fmt: skip


@dataclass(frozen=True, slots=True)
class Use:
    """Memory of one card or slice now, in bytes."""

    free_bytes: int
    own_bytes: int | None
    """Of one process; None where the driver does not tell it (a container, Windows, an old driver)."""


def read_use(uuid: str, pid: int) -> Use:
    """Ask the driver what is free on a card or slice, and what a process has of it.

    Source: nvml.h, nvmlDeviceGetComputeRunningProcesses_v3: usedGpuMemory holds the process's context and all that it
    has allocated; processes are named as the driver's own PID namespace numbers them.

    Raises:
        DeviceError: the driver fails, or has no such card.
    """
    import pynvml

    try:
        with _session(pynvml):
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            free = _memory(pynvml, handle)[2]
            processes = _optional(pynvml, pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
            own = [process.usedGpuMemory for process in processes if process.pid == pid]
            return Use(free, int(own[0]) if own and own[0] else None)
    except pynvml.NVMLError as error:
        raise DeviceError(
            "the NVIDIA driver does not say what memory of the card is used", got=str(error), where=f"NVML, {uuid}"
        ) from error


@contextmanager
def _session(pynvml: Any) -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _read_card(pynvml: Any, index: int) -> Card:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    capability = tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    mode = _optional(pynvml, pynvml.nvmlDeviceGetMigMode, handle)  # [current, pending]
    in_mig_mode = mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    if in_mig_mode:
        # Memory of the whole is asked for only with privilege, and no program can use it anyway.
        total, reserved, free = 0, None, 0
    else:
        total, reserved, free = _memory(pynvml, handle)
    uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
    return Card(
        index=index,
        uuid=uuid,
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        total_bytes=total,
        reserved_bytes=reserved,
        free_bytes=free,
        compute_capability=capability,
        core_count=_optional(pynvml, pynvml.nvmlDeviceGetNumGpuCores, handle),
        in_mig_mode=in_mig_mode,
        slices=tuple(_read_slices(pynvml, handle, index, uuid, capability)) if in_mig_mode else (),
    )


def _read_slices(pynvml: Any, parent: Any, index: int, uuid: str, capability: tuple[int, ...]) -> Iterator[Card]:
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(parent)):
        try:
            handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, number)
        except pynvml.NVMLError_NotFound:  # places without a slice lie between those with one
            continue
        total, reserved, free = _memory(pynvml, handle)
        instance = _optional(pynvml, pynvml.nvmlDeviceGetGpuInstanceId, handle)
        part = _optional(pynvml, pynvml.nvmlDeviceGetComputeInstanceId, handle)
        attributes = _optional(pynvml, pynvml.nvmlDeviceGetAttributes, handle)
        yield Card(
            index=index,
            uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
            name=_text(pynvml.nvmlDeviceGetName(handle)),
            total_bytes=total,
            reserved_bytes=reserved,
            free_bytes=free,
            compute_capability=(capability[0], capability[1]),
            multiprocessor_count=None if attributes is None else int(attributes.multiprocessorCount),
            legacy_uuid="" if None in (instance, part) else f"MIG-{uuid}/{instance}/{part}",
        )


def _memory(pynvml: Any, handle: Any) -> tuple[int, int | None, int]:
    """(total, reserved, free) bytes; version 1 of the call knows no reserved, a card without own memory has total 0.

    `used` is left alone: drivers differ on whether it holds what is reserved.
    """
    try:
        info = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        return int(info.total), int(info.reserved), int(info.free)
    except pynvml.NVMLError_NotSupported:  # GB10, Jetson: the card works in the host's memory
        return 0, None, 0
    except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_ArgumentVersionMismatch):
        info = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return int(info.total), None, int(info.free)


def _optional(pynvml: Any, ask: Callable[[Any], Any], handle: Any) -> Any:
    """Give an answer that not every driver or card has, None where it has not."""
    try:
        return ask(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NoPermission):
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
