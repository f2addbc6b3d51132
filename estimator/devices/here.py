"""The devices of this machine, as they are now: its GPUs through NVML, its CPU through what a process may take."""

from __future__ import annotations

import os
import platform
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from estimator.device import DeviceProfile
from estimator.devices.catalogue import load_profiles, match_card
from estimator.devices.context import with_context
from estimator.devices.memory import baseline_rss_bytes, ram_here
from estimator.devices.nvml import Card, read_cards
from estimator.devices.visible import visible_cards
from estimator.errors import DeviceError

CORES_PER_MULTIPROCESSOR = {
    (3, 0): 192, (3, 5): 192, (3, 7): 192, (5, 0): 128, (5, 2): 128, (6, 0): 64, (6, 1): 128, (7, 0): 64, (7, 5): 64,
    (8, 0): 64, (8, 6): 128, (8, 9): 128, (9, 0): 128, (10, 0): 128, (10, 3): 128, (12, 0): 128, (12, 1): 128,
}  # fmt: skip
"""CUDA cores of one multiprocessor.

Source: NVIDIA/cuda-samples, Common/helper_cuda.h, _ConvertSMVer2Cores (12.9)."""


def gpus_here(extra: Path | None = None) -> list[DeviceProfile]:
    """List the GPUs and MIG slices of this machine that a CUDA program started here may use, in its order.

    `total_bytes` is NVML's total less what the driver reserves: what torch reports. `free_bytes` is free now, so what
    other processes hold is taken off. Where the driver is too old to tell what it reserves, the total comes from the
    catalogue, if it knows the card. Empty without a driver, and where CUDA_VISIBLE_DEVICES hides every card.

    Args:
        extra: User profiles to look a card up in as well, as of `load_profiles`.

    Raises:
        DeviceError: the driver fails, or a card cannot be described.
    """
    cards = read_cards()
    if not cards:
        return []
    visible = visible_cards(cards, os.environ.get("CUDA_VISIBLE_DEVICES"))
    _warn_of_order(cards, os.environ)
    _warn_of_empty_mig(cards)
    profiles = load_profiles(extra)
    parents = {card.index: card for card in cards}
    return [describe_card(card, parents[card.index], position, profiles) for position, card in enumerate(visible)]


def visible_here() -> list[Card]:
    """List the cards and slices of `gpus_here` as the driver gives them, in the same order.

    Raises:
        DeviceError: the driver fails.
    """
    return visible_cards(read_cards() or [], os.environ.get("CUDA_VISIBLE_DEVICES"))


def cpu_here() -> DeviceProfile:
    """Describe this machine's CPU: RAM that a process may take, what is free now, an interpreter with torch as context.

    Takes as long as importing torch, the first time: see `memory.baseline_rss_bytes`.

    Raises:
        DeviceError: the memory cannot be found out, or torch cannot be imported.
    """
    ram, baseline = ram_here(), baseline_rss_bytes()
    return DeviceProfile(
        name="cpu",
        kind="cpu",
        total_bytes=ram.total_bytes,
        free_bytes=ram.free_bytes,
        context_bytes=baseline,
        title=f"CPU of {platform.node() or 'this machine'}",
        sources={
            "total_bytes": "smallest of the limits that hold for this process",
            "free_bytes": f"free now within {ram.limited_by}",
            "context_bytes": "measured: resident memory of a fresh interpreter with torch and the libraries imported so far, that has "
            "trained a few weights; what the job imports later comes on top, and what products of other shapes may keep "
            "besides, some MiB (`batch-estimator calibrate JOB` measures both)",
        },
    )


def this_device(index: int | None = None, extra: Path | None = None) -> DeviceProfile:
    """Describe what a program started here would run on: a visible GPU, else the CPU.

    Args:
        index: Which of the visible GPUs, as in `cuda:1`; None takes the first, or the CPU where there is none.
        extra: User profiles, as of `load_profiles`.

    Raises:
        DeviceError: the driver fails, or there is no GPU of that index.
    """
    gpus = gpus_here(extra)
    if index is None:
        return gpus[0] if gpus else _cpu_for_want_of_a_gpu(os.environ)
    if not 0 <= index < len(gpus):
        variable = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise DeviceError(
            "this machine has no such GPU", got=f"cuda:{index}",
            allowed=", ".join(f"cuda:{n} ({gpu.title})" for n, gpu in enumerate(gpus)) or "cpu (no GPU is visible)",
            where=None if variable is None else f"CUDA_VISIBLE_DEVICES={variable}",
            hint="name a card of the catalogue to plan for another machine",
        )  # fmt: skip
    return gpus[index]


def _cpu_for_want_of_a_gpu(environ: Mapping[str, str]) -> DeviceProfile:
    """The CPU, whose source of `kind` says why it is no GPU and what to do for one."""
    hidden = environ.get("CUDA_VISIBLE_DEVICES")
    why = "no NVIDIA driver answers on this machine"
    if hidden is not None:
        why = f"no GPU is visible (CUDA_VISIBLE_DEVICES={hidden})"
    cluster = ", or ask `batch-estimator slurm` what this cluster has" if shutil.which("sinfo") else ""
    cpu = cpu_here()
    told = f"{why}: this is for its CPU; name the GPU of another machine with --device{cluster}"
    return cpu.model_copy(update={"sources": cpu.sources | {"kind": told}})


def describe_card(card: Card, parent: Card, position: int, profiles: Mapping[str, DeviceProfile]) -> DeviceProfile:
    """Make the profile of a card or MIG slice from what NVML says of it and what the catalogue knows of its name.

    Args:
        card: The card or slice.
        parent: The card that a slice is of; `card` itself where it is whole.
        position: Its CUDA index.
        profiles: The catalogue.

    Raises:
        DeviceError: the card has no memory of its own, or its multiprocessors cannot be counted.
    """
    if card.total_bytes == 0:
        raise DeviceError(
            "this GPU has no memory of its own that NVML could measure", got=card.name,
            hint="describe it in a TOML profile, with the memory that the job may take",
        )  # fmt: skip
    is_slice = card is not parent
    known = None if is_slice else match_card(card.name, profiles)
    total, total_source = _total(card, known)
    count, count_source = _multiprocessors(card, known)
    profile = DeviceProfile(
        name=known.name if known else _slug(card.name),
        kind="cuda",
        total_bytes=total,
        free_bytes=min(card.free_bytes, total),
        compute_capability=card.compute_capability,
        multiprocessor_count=count,
        title=f"{card.name} (cuda:{position}, {card.uuid})",
        sources={
            "total_bytes": total_source,
            "free_bytes": "NVML memory info: free now, what other processes hold is taken off",
            "compute_capability": "NVML" + (", of the card that the slice is of" if is_slice else ""),
            "multiprocessor_count": count_source,
        },
    )
    if known is None or known.multiprocessor_count != count:
        return with_context(profile)
    keys = ("context_bytes", "context_low_bytes", "context_high_bytes")
    context = {key: getattr(known, key) for key in keys}
    sources = {key: f"profile {known.name}: {known.sources.get(key, 'no source given')}" for key in keys}
    return profile.model_copy(update={**context, "sources": profile.sources | sources})


def _total(card: Card, known: DeviceProfile | None) -> tuple[int, str]:
    """Bytes that torch reports, and where they are from.

    Source: unslothai/unsloth pull request 9362: B200, NVML 183359 MiB less 726 reserved, torch 182631.
    Bound: may be up to 2 MiB above what torch reports, as in that case.
    """
    if card.reserved_bytes is not None:
        return card.total_bytes - card.reserved_bytes, "NVML memory info version 2: total less reserved"
    if known is not None and known.total_bytes <= card.total_bytes:
        return known.total_bytes, f"profile {known.name}: the driver is too old to say what it reserves"
    return card.total_bytes, (
        "NVML memory info version 1: total. Bound: the driver is too old to say what it reserves, so torch sees less"
    )


def _multiprocessors(card: Card, known: DeviceProfile | None) -> tuple[int, str]:
    """NVML gives the count for a slice only. A count from the card's own cores wins where the catalogue differs."""
    if card.multiprocessor_count is not None:
        return card.multiprocessor_count, "NVML, attributes of the MIG slice"
    each = CORES_PER_MULTIPROCESSOR.get(card.compute_capability)
    counted = card.core_count // each if card.core_count and each else None
    if known is not None and known.multiprocessor_count is not None and counted in (None, known.multiprocessor_count):
        return known.multiprocessor_count, f"profile {known.name}, matched by name"
    if counted is not None:
        return counted, f"NVML: {card.core_count} cores, {each} a multiprocessor"
    raise DeviceError(
        "cannot count the multiprocessors of this GPU", got=card.name,
        where=f"compute capability {card.compute_capability[0]}.{card.compute_capability[1]}",
        hint=f"describe it in a TOML profile whose title is {card.name!r}",
    )  # fmt: skip


def _slug(name: str) -> str:
    words = re.sub(r"[^a-z0-9.]+", "-", name.casefold()).strip("-")
    return re.sub(r"^(nvidia-|tesla-|geforce-)+", "", words)


def _warn_of_order(cards: Sequence[Card], environ: Mapping[str, str]) -> None:
    """CUDA numbers the fastest card first unless told otherwise, NVML goes by bus; alike cards make no difference."""
    by_uuid = environ.get("CUDA_VISIBLE_DEVICES", "").startswith(("GPU-", "MIG-"))
    if len({card.name for card in cards}) > 1 and not by_uuid and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        warnings.warn(
            "this machine's GPUs differ and CUDA_DEVICE_ORDER is not PCI_BUS_ID: torch may number them otherwise",
            RuntimeWarning,
            stacklevel=3,
        )


def _warn_of_empty_mig(cards: Sequence[Card]) -> None:
    empty = [card.name for card in cards if card.in_mig_mode and not card.slices]
    if empty:
        warnings.warn(f"in MIG mode without a slice, so unusable: {', '.join(empty)}", RuntimeWarning, stacklevel=3)
