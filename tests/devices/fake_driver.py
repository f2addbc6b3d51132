"""A driver of the test's making behind the functions of pynvml, with the binding's own errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

MIB = 1 << 20
GIB = 1 << 30


@dataclass
class FakeCard:
    """What the fake driver says of one card. `mig` is None for a card that knows no MIG mode."""

    name: str = "NVIDIA A100-SXM4-80GB"
    uuid: str = "GPU-00000000"
    total: int = 80 * GIB
    reserved: int = 800 * MIB
    free: int = 70 * GIB
    capability: tuple[int, int] = (8, 0)
    cores: int | None = 6912
    mig: bool | None = None
    slices: list[FakeCard | None] = field(default_factory=list)
    multiprocessors: int | None = None
    instance: tuple[int, int] | None = None


@dataclass
class FakeDriver:
    """Behaviour that tests switch: how initialising fails, and whether memory info has version 2."""

    cards: list[FakeCard] = field(default_factory=list)
    init_error: int | None = None
    memory_v2_error: int | None = None
    shutdowns: int = 0


def install(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """Put a fake driver behind pynvml; its cards and failures are set by the test."""
    import pynvml

    fake = FakeDriver()

    def refuse(code: int | None) -> None:
        if code is not None:
            raise pynvml.NVMLError(code)

    def known(value: Any) -> Any:
        refuse(pynvml.NVML_ERROR_NOT_SUPPORTED if value is None else None)
        return value

    def memory(card: FakeCard, version: int | None = None) -> SimpleNamespace:
        if version is None:
            return SimpleNamespace(total=card.total, free=card.free, used=card.total - card.free)
        refuse(fake.memory_v2_error)
        return SimpleNamespace(total=card.total, reserved=card.reserved, free=card.free, used=0)

    def slice_at(card: FakeCard, index: int) -> FakeCard:
        refuse(pynvml.NVML_ERROR_NOT_FOUND if card.slices[index] is None else None)
        piece = card.slices[index]
        assert piece is not None
        return piece

    def shut_down() -> None:
        fake.shutdowns += 1

    functions: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: refuse(fake.init_error),
        "nvmlShutdown": shut_down,
        "nvmlDeviceGetCount": lambda: len(fake.cards),
        "nvmlDeviceGetHandleByIndex": lambda index: fake.cards[index],
        "nvmlDeviceGetName": lambda card: card.name,
        "nvmlDeviceGetUUID": lambda card: card.uuid,
        "nvmlDeviceGetCudaComputeCapability": lambda card: card.capability,
        "nvmlDeviceGetNumGpuCores": lambda card: known(card.cores),
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetMigMode": lambda card: [int(known(card.mig))] * 2,
        "nvmlDeviceGetMaxMigDeviceCount": lambda card: len(card.slices),
        "nvmlDeviceGetMigDeviceHandleByIndex": slice_at,
        "nvmlDeviceGetGpuInstanceId": lambda card: known(card.instance)[0],
        "nvmlDeviceGetComputeInstanceId": lambda card: known(card.instance)[1],
        "nvmlDeviceGetAttributes": lambda card: SimpleNamespace(multiprocessorCount=known(card.multiprocessors)),
    }
    for name, function in functions.items():
        monkeypatch.setattr(pynvml, name, function)
    return fake
