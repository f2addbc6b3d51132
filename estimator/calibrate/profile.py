"""The profile that a calibration gives, and its file."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from estimator.calibrate.records import Calibration
from estimator.calibrate.run import beside
from estimator.device import DeviceProfile
from estimator.devices.context import LOADED_MODULES_HIGH_BYTES
from estimator.errors import ConfigError, UsageError


def calibrated_profile(calibration: Calibration, name: str | None = None) -> DeviceProfile:
    """The device with the figures that were measured.

    `context_bytes` is the largest seen. On a card `context_low_bytes` is the smallest bare context, and
    `context_high_bytes` leaves room for the kernels of other jobs. Nothing is said of what is free: that was then.

    Args:
        calibration: what was measured.
        name: of the profile; by default the catalogue's name of a card, or `cpu-` and the machine's name.
    """
    return _of_cpu(calibration, name) if calibration.device.kind == "cpu" else _of_card(calibration, name)


def _of_cpu(c: Calibration, name: str | None) -> DeviceProfile:
    live = c.most("requested_bytes")
    peaks = list(zip(c.figures("loaded_bytes"), c.figures("resident_peak_bytes"), strict=True))
    seen = [beside(*peak, live) for peak in peaks]
    what = f"measured: {_how(c)}: peak resident memory less the tensors'"
    return DeviceProfile(
        name=name or f"cpu-{_plain(c.machine)}",
        title=f"CPU of {c.machine}",
        kind="cpu",
        total_bytes=c.device.total_bytes,
        multiprocessor_count=c.most("thread_count"),
        context_bytes=max(seen),
        context_low_bytes=c.least("loaded_bytes"),
        context_high_bytes=max(seen),
        sources={
            "total_bytes": f"measured: on {c.machine}, {c.device.sources.get('total_bytes', '')}",
            "multiprocessor_count": "measured: torch.get_num_threads()",
            "context_bytes": f"{what}; the largest, {_spread(seen)}",
            "context_low_bytes": "measured: resident with torch and the job's imports, before the model is made",
            "context_high_bytes": "measured: the same as context_bytes",
        },
    )


def _of_card(c: Calibration, name: str | None) -> DeviceProfile:
    bare, seen, device = c.figures("bare_context_bytes"), c.figures("context_bytes"), c.device
    how = ", ".join(sorted({run.seen_by for run in c.runs}))
    eager = os.environ.get("CUDA_MODULE_LOADING", "LAZY").upper() == "EAGER"
    loading = "; CUDA_MODULE_LOADING=EAGER" if eager else ""
    # Where every kernel is loaded at the start, other jobs load no more.
    high = max(seen) if eager else max(*seen, max(bare) + LOADED_MODULES_HIGH_BYTES)
    return DeviceProfile(
        name=name or device.name,
        title=re.sub(r" \(cuda:.*\)$", "", device.title),
        kind="cuda",
        total_bytes=c.least("total_bytes"),
        compute_capability=device.compute_capability,
        multiprocessor_count=device.multiprocessor_count,
        context_bytes=max(seen),
        context_low_bytes=min(*bare, *seen),
        context_high_bytes=high,
        sources={
            "total_bytes": "measured: torch.cuda.get_device_properties(0).total_memory",
            "compute_capability": device.sources.get("compute_capability", ""),
            "multiprocessor_count": device.sources.get("multiprocessor_count", ""),
            "context_bytes": f"measured: {_how(c)}: NVML ({how}) less reserved{loading}; the largest, {_spread(seen)}",
            "context_low_bytes": f"measured: one tensor, NVML ({how}) less reserved; the smallest, {_spread(bare)}",
            "context_high_bytes": "measured: the larger of context_bytes and the bare context with what the kernels of "
            "other jobs take at most (estimator/devices/context.py)",
        },
    )


def profile_text(calibration: Calibration, profile: DeviceProfile) -> str:
    """The TOML file: the profile, and below it what was predicted and measured, which readers pass over."""
    import tomli_w

    fields = profile.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    sources = fields.pop("sources")
    record: dict[str, Any] = calibration.model_dump(
        mode="json", include={"job", "batch_size", "steps", "torch_version", "machine", "date", "notes"}
    )
    record["compared"] = [line.model_dump(exclude_none=True) for line in calibration.compared]
    record["runs"] = [run.model_dump(exclude_none=True, exclude_defaults=True) for run in calibration.runs]
    text: str = tomli_w.dumps({**fields, "sources": sources, "calibration": record})
    return f"# Made by `batch-estimator calibrate`. Readable by --device FILE and --profiles.\n{text}"


def check_absent(path: Path, force: bool) -> None:
    """Refuse to write over a file.

    Raises:
        UsageError: it is there, and `force` is not given.
    """
    if path.exists() and not force:
        raise UsageError(
            "the profile is there already", got=str(path), where="--output", hint="name another file, or give --force"
        )


def write_profile(path: Path, text: str, *, force: bool = False) -> None:
    """Write a profile in one step: whoever reads meanwhile, or a crash, finds the old file or the new one whole.

    Raises:
        UsageError: the file is there, and `force` is not given.
        ConfigError: it cannot be written.
    """
    check_absent(path, force)
    path = path.resolve()  # a link stays a link
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        if not force:
            _claim(path)
        part.replace(path)
    except OSError as error:
        raise ConfigError("cannot write the profile", got=error.strerror, where=str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _claim(path: Path) -> None:
    """Make the file, empty, unless someone else has made it meanwhile."""
    try:
        path.open("x").close()
    except FileExistsError:
        check_absent(path, False)


def _how(c: Calibration) -> str:
    return (
        f"{c.steps} real steps of {c.job} at batch size {c.batch_size}, torch {c.torch_version}, "
        f"{len(c.figures('loaded_bytes') or c.figures('context_bytes'))} runs"
    )


def _spread(seen: list[int]) -> str:
    return f"spread {max(seen) - min(seen)} bytes"


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.casefold()).strip("-") or "here"
