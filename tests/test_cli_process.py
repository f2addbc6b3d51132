"""The command as a real process: quick help, `python -m`, signals, pipes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from estimator import __version__

pytestmark = pytest.mark.pure

ROOT = Path(__file__).resolve().parent.parent


def shell(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "estimator", *arguments], capture_output=True, text=True, cwd=ROOT, **more
    )


def _least_seconds(
    code: str, environment: dict[str, str], times: int = 5
) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Processor seconds (user and system) of a process that runs `code`, the best of some; and the last process."""
    spent = []
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, env=environment
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent), done


def test_help_is_quick_and_imports_no_torch(tmp_path: Path) -> None:
    """Help answers at once: under 0.3 processor seconds, or, on a machine so slow or so busy that the command line's
    library alone takes a third of that, under three times what the library takes there."""
    # An installed program has its bytecode compiled: the first of the runs compiles it here, wherever it may be written.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    code = (
        "import sys; sys.argv = ['batch-estimator', '--help']\n"
        "from estimator.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'pydantic', 'rich', 'numpy') if m in sys.modules], file=sys.stderr)"
    )
    spent, done = _least_seconds(code, environment)
    library, _ = _least_seconds("import typer.main", environment)
    assert "predict" in done.stdout
    assert done.stderr == "[]\n"
    assert spent < max(0.3, 3 * library)


def test_module_runs_as_the_command() -> None:
    """`python -m estimator` is `batch-estimator`, in its messages too."""
    done = shell("predict")
    assert done.returncode == 2
    assert "Usage: batch-estimator predict" in done.stderr
    assert shell("--version").stdout == f"batch-estimator {__version__}\n"


def test_broken_pipe_is_quiet() -> None:
    """A reader that goes away (`| head -1`) is no error: no traceback, and the exit code stays that of the answer."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "estimator", "schema"], stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_ends_a_real_process(tmp_path: Path) -> None:
    """SIGINT while the user's module loads: 130, no traceback."""
    job = tmp_path / "slow.py"
    job.write_text("import time\nopen('started', 'w').close()\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "estimator", "predict", f"{job}:job", "--quiet", "--device", "l4"],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    until = time.monotonic() + 120  # a busy machine takes long to import torch
    while not (tmp_path / "started").exists():
        assert time.monotonic() < until, "the job's module was not reached"
        assert process.poll() is None, "the process ended before"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout, stderr) == (130, "", "interrupted\n")
