"""Ask an installed cuDNN, without a GPU, what workspace a convolution takes. Needs no torch; off unless asked for.

`pip install batch-estimator[cudnn]` installs cuDNN for this; `use_cudnn(True)` or `BATCH_ESTIMATOR_CUDNN=1` turns it
on.
"""

from __future__ import annotations

import atexit
import ctypes.util
import importlib.util
import json
import os
import selectors
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from estimator.device import Target
from estimator.errors import ConfigError
from estimator.scratch.conv_call import CudnnConv
from estimator.scratch.registry import Confidence

TIME_LIMIT_SECONDS = 60.0
BUNDLED = {(2, 11): (9, 19), (2, 12): (9, 20), (2, 13): (9, 20), (2, 15): (9, 26)}
"""cuDNN that torch's default CUDA wheels require. Source: Requires-Dist of the wheels, nvidia-cudnn-cu13."""
ALIKE = (((9, 19), (9, 20)),)
"""Versions of cuDNN whose heuristics choose the same plans.

Source: measured: 141,210 convolutions of 700 layers of `benchmarks.conv_line_layers` on 7.5, 8.0, 8.6, 8.9 and 9.0: no
workspace differs between 9.19 and 9.20; in 9.26 up to 42 in 100 do.
"""

_CARDS: dict[tuple[int, int], tuple[int, int, int, int, int]] = {
    (7, 5): (16, 65536, 4, 1590, 5001),
    (8, 0): (32, 166912, 40, 1410, 1593),
    (8, 6): (16, 101376, 6, 1695, 9751),
    (8, 9): (24, 101376, 72, 2520, 10501),
    (9, 0): (32, 232448, 60, 1980, 3201),
    (10, 0): (32, 232448, 126, 1965, 3996),
    (12, 0): (24, 101376, 96, 2407, 14001),
}
"""Blocks per multiprocessor, shared memory a block may opt in to (bytes), L2 (MiB), clock and memory clock (MHz).

Source: CUDA C++ Programming Guide 13.0, "Technical Specifications per Compute Capability"; product briefs of T4, A100,
RTX 3090, RTX 4090, H200, B200, RTX 5090. Clocks, L2 and the number of multiprocessors do not change the answers on
7.5 to 8.9 and 12.0, and 1 in 100 of them on 9.0 and 10.0 (measured: simulated cards with half the multiprocessors).
"""

ASKED = ("kind", "dtype", "nhwc", "x", "w", "y", "stride", "padding", "dilation")
"""What a question holds of a convolution; cuDNN reads the groups off the channels."""

_asked: bool | None = None


def use_cudnn(enabled: bool | None) -> None:
    """Turn the exact answer on or off; None leaves it to the environment variable `BATCH_ESTIMATOR_CUDNN`.

    Raises:
        ConfigError: `enabled` is true and no cuDNN 9 is installed.
    """
    global _asked
    if enabled and find_cudnn() is None:
        raise ConfigError(
            "cuDNN is not installed", allowed="a package that holds nvidia/cudnn/lib, or a libcudnn the loader finds",
            where="use_cudnn(True)", hint="pip install batch-estimator[cudnn]",
        )  # fmt: skip
    _asked = enabled


def is_enabled() -> bool:
    """Whether workspaces are asked of cuDNN: `use_cudnn` decides, else `BATCH_ESTIMATOR_CUDNN` (1, true, yes, on)."""
    if _asked is not None:
        return _asked
    return os.environ.get("BATCH_ESTIMATOR_CUDNN", "").lower() in ("1", "true", "yes", "on")


def find_cudnn() -> str | None:
    """Path of libcudnn.so.9: of the package `nvidia-cudnn-*`, else one that the system's loader knows."""
    for folder in _package_folders("nvidia.cudnn"):
        found = sorted(folder.glob("lib/libcudnn.so.9*"))
        if found:
            return str(found[0])
    name = ctypes.util.find_library("cudnn")
    return name if name and name.endswith(".so.9") else None


def find_preloads() -> list[str]:
    """Libraries that cuDNN looks up by name and that lie in packages of their own: cuBLASLt and NVRTC."""
    folders = [*_package_folders("nvidia"), *_package_folders("nvidia.cu13"), *_package_folders("nvidia.cublas")]
    found: dict[str, str] = {}
    for folder in folders:
        for pattern in ("libcublasLt.so.1[0-9]", "libcublas.so.1[0-9]", "libnvrtc.so.1[0-9]"):
            for path in (*folder.glob(f"lib/{pattern}"), *folder.glob(f"*/lib/{pattern}")):
                found.setdefault(path.name.split(".")[0], str(path))
    return [found[name] for name in ("libcublasLt", "libcublas", "libnvrtc") if name in found]


def is_alike(a: tuple[int, int] | None, b: tuple[int, int] | None) -> bool:
    """Whether two versions of cuDNN, (major, minor), choose the same plans; an unknown one is like none."""
    return a is not None and (a == b or any(a in group and b in group for group in ALIKE))


def _package_folders(name: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    return [Path(p) for p in (spec.submodule_search_locations or ())] if spec is not None else []


class CudnnProcess:
    """A child process that answers questions about one card; restarted after a crash, given up after three."""

    def __init__(
        self,
        library: str,
        preloads: Sequence[str],
        card: dict[str, Any],
        time_limit_seconds: float = TIME_LIMIT_SECONDS,
    ) -> None:
        worker = str(Path(__file__).with_name("cudnn_worker.py"))
        self.command = [sys.executable, worker, json.dumps(card), library, *preloads]
        self.time_limit_seconds = time_limit_seconds
        self.version: tuple[int, int, int] | None = None
        self.has_matmul = self.has_compiled = False
        self.answers: dict[str, dict[str, Any]] = {}
        self.crash_count = 0
        self._child: subprocess.Popen[bytes] | None = None

    def ask(self, question: dict[str, Any]) -> dict[str, Any] | None:
        """The answer, or None when cuDNN crashed, hung or refused; then a warning says why, once a question."""
        key = json.dumps(question, sort_keys=True)
        if key not in self.answers:
            found = self._exchange(question)
            if "error" in found:
                self._warn(found["error"], question)
            self.answers[key] = found
        return None if "error" in self.answers[key] else self.answers[key]

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _exchange(self, question: dict[str, Any]) -> dict[str, Any]:
        if self.crash_count >= 3:
            return {"error": "it crashed three times and is not asked any more"}
        try:
            child = self._start()
            assert child.stdin is not None
            child.stdin.write(json.dumps(question).encode() + b"\n")
            child.stdin.flush()
            return self._read(child)
        except (OSError, ValueError) as error:
            self.close()
            self.crash_count += 1
            return {"error": f"its process failed: {error}"}

    def _start(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            pipe = subprocess.PIPE
            self._child = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
            atexit.register(self.close)
            hello = self._read(self._child)
            if "version" not in hello:
                raise OSError(hello.get("error", "no version"))
            number = int(hello["version"])
            self.version = number // 10000, number // 100 % 100, number % 100
            self.has_matmul, self.has_compiled = bool(hello["has_matmul"]), bool(hello["has_compiled"])
        return self._child

    def _read(self, child: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            if not selector.select(self.time_limit_seconds):
                raise OSError(f"no answer in {self.time_limit_seconds:.0f} seconds")
        line = child.stdout.readline()
        if not line:
            raise OSError(f"it ended with code {child.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def _warn(self, why: str, question: dict[str, Any]) -> None:
        shapes = " ".join(str(tuple(question[name])) for name in ("x", "w", "y"))
        warnings.warn(
            f"cuDNN gives no workspace ({why}) for {question['kind']} of {question['dtype']} {shapes}; "
            "the table of measured workspaces is used instead",
            RuntimeWarning, stacklevel=2,
        )  # fmt: skip


_processes: dict[str, CudnnProcess] = {}


def cudnn_process(target: Target) -> CudnnProcess | None:
    """The process that answers for the target's card, or None where no cuDNN is installed; that is a warning."""
    card = describe_card(target)
    key = json.dumps(card, sort_keys=True)
    if key not in _processes:
        library = find_cudnn()
        if library is None:
            warnings.warn(
                "BATCH_ESTIMATOR_CUDNN is set but no cuDNN 9 is installed (pip install batch-estimator[cudnn]); "
                "the table of measured workspaces is used instead",
                RuntimeWarning, stacklevel=2,
            )  # fmt: skip
            return None
        _processes[key] = CudnnProcess(library, find_preloads(), card)
    return _processes[key]


def describe_card(target: Target) -> dict[str, Any]:
    """The device of `target` in the form that cuDNN reads; properties it does not have are those of a known card."""
    device = target.device
    capability = device.compute_capability or (8, 0)
    known = [c for c in _CARDS if c <= capability] or [(7, 5)]
    blocks, shared, l2_mib, clock_mhz, memory_mhz = _CARDS[max(known)]
    return {
        "cudaDeviceId": 0, "deviceName": device.name, "deviceVer": capability[0] * 100 + capability[1] * 10,
        "driverVer": 13000, "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
        "regsPerBlock": 65536, "multiProcessorCount": device.multiprocessor_count, "smClockRateKHz": clock_mhz * 1000,
        "memClockRateKHz": memory_mhz * 1000, "l2CacheSize": l2_mib << 20, "warpSize": 32,
        "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": shared, "reservedSharedMemoryPerBlock": 1024,
        "maxRegistersPerSM": 65536, "pciDeviceId": 0, "maxCtasPerSM": blocks, "maxThreadsPerBlock": 1024,
        "maxThreadsPerSM": device.threads_per_multiprocessor, "isTccDriver": 0, "supportCoopLaunch": 1,
        "totalGlobalMem": device.total_bytes,
    }  # fmt: skip


class Answer(NamedTuple):
    """Bytes of the first plan's workspace, and how far a card of the target's would agree."""

    size_bytes: int
    confidence: Confidence


def ask_workspace(call: CudnnConv, target: Target) -> Answer | None:
    """Ask for the workspace of the plan that comes first.

    The answer is exact where the installed cuDNN is the one that the target's torch brings, or is `ALIKE`, and all its
    engines take part, assumed where it is another version. Where engines that are compiled when they are used are missing, for want
    of the driver's library, grouped convolutions of 16-bit types may get another plan; the rest is modelled (measured,
    8.0 and 9.0: of 1278 convolutions 1153 in 1154 others had the same plan, of those 6 in 7). A convolution that is a
    product (kernel 1x1, stride 1) is modelled too: it goes to cuBLASLt, which is not asked, and whose own workspace is
    taken as 0.

    Returns:
        None when there is no answer, or none worth having: a product where cuBLASLt cannot be made to take part, and
        a depthwise gradient of the weight in 16 bits without the compiled engines (measured: 20 of 20 got another
        plan, the table had 19 of them).
    """
    process = cudnn_process(target)
    found = process.ask(_question(call, target, first=True)) if process is not None else None
    if process is None or found is None or process.version is None:
        return None
    if call.is_product and not process.has_matmul:
        return None
    may_be_compiled = call.groups > 1 and call.dtype in ("float16", "bfloat16") and not process.has_compiled
    if may_be_compiled and call.kind == "weight" and call.w[1] == 1:
        return None
    if may_be_compiled or not is_alike(BUNDLED.get(target.torch_release), process.version[:2]):
        return Answer(int(found["workspace"]), "assumed")
    is_sure = process.has_compiled and not call.is_product
    return Answer(int(found["workspace"]), "exact" if is_sure else "modelled")


def ask_largest(call: CudnnConv, target: Target) -> int | None:
    """Bytes of the largest workspace among the plans that fit the device, which `cudnn.benchmark` allocates."""
    process = cudnn_process(target)
    found = process.ask(_question(call, target, first=False)) if process is not None else None
    if found is None:
        return None
    return max((size for size in found["workspaces"] if size <= target.device.capacity_bytes), default=0)


def _question(call: CudnnConv, target: Target, *, first: bool) -> dict[str, Any]:
    asked = {name: getattr(call, name) for name in ASKED}
    return asked | {"deterministic": target.deterministic, "first": first}
