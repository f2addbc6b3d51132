"""Memory of this process, as the system and PyTorch's own counters tell it."""

from __future__ import annotations

import contextlib
from typing import Any


def status_bytes(key: str) -> int:
    """A figure of /proc/self/status; 0 where there is none.

    Source: proc_pid_status(5): VmRSS and VmHWM in kB, which are 1024 bytes.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            lines = dict(line.partition(":")[::2] for line in status)
    except OSError:
        return 0
    return int(lines[key].split()[0]) << 10 if key in lines else 0


def own_rss_bytes() -> int:
    """Resident bytes of this process; 0 where /proc does not tell."""
    return status_bytes("VmRSS")


def forget_peak_rss() -> None:
    """Let VmHWM begin anew at what is resident now, where the system allows it.

    Source: proc_pid_clear_refs(5): writing 5 resets the peak resident set size (Linux 4.0).
    """
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5\n")


def live_peak_bytes(profile: Any) -> int:
    """Most bytes of PyTorch's CPU allocator that were live at once, of those allocated while the profiler ran.

    Source: torch/autograd/profiler.py, events named `[memory]` with the change in bytes (2.13).
    """
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
