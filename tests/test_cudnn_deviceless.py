"""The child process that asks cuDNN, with a stand-in for cuDNN; none is installed for the tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from estimator.device import DeviceProfile, Target
from estimator.errors import ConfigError
from estimator.scratch import conv_workspace, cudnn_deviceless
from estimator.scratch.conv_call import CudnnConv

pytestmark = pytest.mark.pure

CALL = CudnnConv("forward", "float32", False, (4, 64, 56, 56), (64, 64, 3, 3), (4, 64, 56, 56), (1, 1), (1, 1), (1, 1),
                 1)  # fmt: skip
PRODUCT = CudnnConv("forward", "float32", False, (4, 64, 56, 56), (64, 64, 1, 1), (4, 64, 56, 56), (1, 1), (0, 0),
                    (1, 1), 1)  # fmt: skip
STAND_IN = """
import json, sys
print(json.dumps({"version": %(version)d, "has_matmul": True, "has_compiled": %(compiled)s}), flush=True)
for count, line in enumerate(sys.stdin):
    question = json.loads(line)
    if question["dtype"] == "float64":
        sys.exit(3)
    if question["first"]:
        print(json.dumps({"engine": 1, "workspace": 1000 + count}), flush=True)
    else:
        print(json.dumps({"workspaces": [5, 7 << 40, 900]}), flush=True)
"""


def target(**changes: Any) -> Target:
    device = DeviceProfile(
        name="card", kind="cuda", total_bytes=80 << 30, compute_capability=(8, 0), multiprocessor_count=108
    )
    return Target(device=device, torch_version="2.11.0", **changes)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a process in cuDNN's place; call it with the version and whether compiled engines take part."""
    made: list[cudnn_deviceless.CudnnProcess] = []

    def put(version: int = 91900, compiled: bool = True) -> cudnn_deviceless.CudnnProcess:
        script = tmp_path / "stand_in.py"
        script.write_text(STAND_IN % {"version": version, "compiled": compiled})
        process = cudnn_deviceless.CudnnProcess("libcudnn.so.9", [], {}, time_limit_seconds=20.0)
        process.command = [sys.executable, str(script)]
        monkeypatch.setattr(cudnn_deviceless, "cudnn_process", lambda target: process)
        made.append(process)
        return process

    yield put
    for process in made:
        process.close()


def test_an_answer_of_torchs_own_cudnn_is_exact_and_asked_for_once(stand_in: Any) -> None:
    stand_in()
    assert cudnn_deviceless.ask_workspace(CALL, target()) == (1000, "exact")
    assert cudnn_deviceless.ask_workspace(CALL, target()) == (1000, "exact")
    assert cudnn_deviceless.ask_workspace(PRODUCT, target()) == (1001, "modelled")  # cuBLASLt's share is not known


def test_an_answer_of_another_cudnn_or_without_all_engines_is_not_exact(stand_in: Any) -> None:
    stand_in(version=92000)  # torch 2.11 brings 9.19, and 9.20 chooses as that does
    assert cudnn_deviceless.ask_workspace(CALL, target()) == (1000, "exact")
    stand_in(version=92601)
    assert cudnn_deviceless.ask_workspace(CALL, target()) == (1000, "assumed")
    stand_in(compiled=False)
    assert cudnn_deviceless.ask_workspace(CALL, target()) == (1000, "modelled")


def test_without_compiled_engines_grouped_halves_keep_the_interval_and_depthwise_weights_are_looked_up(
    stand_in: Any,
) -> None:
    stand_in(compiled=False)
    geometry = ((1, 1), (1, 1), (1, 1))
    grouped = CudnnConv("weight", "float16", True, (4, 64, 9, 9), (64, 8, 3, 3), (4, 64, 9, 9), *geometry, 8)
    depthwise = CudnnConv("weight", "float16", True, (4, 64, 9, 9), (64, 1, 3, 3), (4, 64, 9, 9), *geometry, 64)
    assert cudnn_deviceless.ask_workspace(grouped, target()) == (1000, "assumed")
    assert cudnn_deviceless.ask_workspace(depthwise, target()) is None
    stand_in(compiled=True)
    assert cudnn_deviceless.ask_workspace(depthwise, target()) == (1000, "exact")


def test_an_answer_of_another_cudnn_keeps_the_interval_of_the_table(
    stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(version=92601)
    monkeypatch.setattr(cudnn_deviceless, "_asked", True)
    table, found = conv_workspace.look_up(CALL, target()), conv_workspace.workspace(CALL, target())
    assert found.size_bytes == 1000
    assert found.low_bytes == min(1000, table.low_bytes)
    assert found.high_bytes == max(1000, table.high_bytes)


def test_the_prediction_takes_an_exact_answer_and_its_interval_closes(
    stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in()
    monkeypatch.setattr(cudnn_deviceless, "_asked", True)
    assert conv_workspace.workspace(CALL, target()) == (1000, 1000, 1000, "exact")


def test_benchmark_mode_asks_for_the_largest_that_fits_the_card(stand_in: Any) -> None:
    stand_in()
    assert cudnn_deviceless.ask_largest(CALL, target()) == 900  # 7 TiB do not fit 80 GiB


def test_a_process_that_crashes_is_started_anew_three_times(stand_in: Any) -> None:
    process = stand_in()
    for size in (1, 2, 3, 4):
        call = CudnnConv("forward", "float64", False, (size, 1, 4, 4), (1, 1, 1, 1), (size, 1, 4, 4), (1, 1), (0, 0),
                         (1, 1), 1)  # fmt: skip
        with pytest.warns(RuntimeWarning):
            assert cudnn_deviceless.ask_workspace(call, target()) is None
    assert process.crash_count == 3
    with pytest.warns(RuntimeWarning, match="three times"):
        assert cudnn_deviceless.ask_workspace(CALL, target()) is None


def test_asking_without_cudnn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn_deviceless, "find_cudnn", lambda: None)
    with pytest.raises(ConfigError, match=r"batch-estimator\[cudnn\]"):
        cudnn_deviceless.use_cudnn(True)


@pytest.mark.parametrize(("value", "enabled"), [("1", True), ("on", True), ("0", False), ("", False)])
def test_the_environment_turns_it_on(monkeypatch: pytest.MonkeyPatch, value: str, enabled: bool) -> None:
    monkeypatch.setattr(cudnn_deviceless, "_asked", None)
    monkeypatch.setenv("BATCH_ESTIMATOR_CUDNN", value)
    assert cudnn_deviceless.is_enabled() is enabled
