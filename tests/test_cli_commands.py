"""The commands besides `predict`: devices, replay, schema, version."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from estimator import __version__
from estimator.cli import app
from estimator.device import DeviceProfile
from estimator.errors import DeviceError
from estimator.units import MIB


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.pure
def test_version() -> None:
    """--version is one line; `version` names what the numbers depend on, without importing it."""
    assert run("--version").stdout == f"batch-estimator {__version__}\n"
    versions = json.loads(run("version", "--json").stdout)
    assert versions["batch-estimator"] == __version__
    assert versions["torch"][0].isdigit()
    assert f"torch {versions['torch']}\n" in run("version").stdout


@pytest.mark.pure
def test_schema_command() -> None:
    """The schema is JSON and knows the document's keys."""
    assert "max_batch_size" in json.loads(run("schema").stdout)["properties"]


@pytest.fixture
def quick_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up CPU and no GPU: measuring the real baseline means importing torch."""
    import estimator.devices

    cpu = DeviceProfile(name="cpu", kind="cpu", title="CPU of [b]host", total_bytes=2**33, free_bytes=2**32)
    monkeypatch.setattr(estimator.devices, "cpu_here", lambda: cpu)
    monkeypatch.setattr(estimator.devices, "gpus_here", lambda extra: [])


@pytest.mark.pure
def test_devices_lists_the_catalogue_and_this_machine(quick_cpu: None) -> None:
    """Each profile with its figures; what this machine has stands apart; --verbose gives the sources."""
    text = run("devices").stdout
    assert re.search(r"^  a100-80gb +NVIDIA A100\S* +79\.15 GiB +8\.0 +108 ", text, flags=re.MULTILINE)
    here = text.split("This machine")[1]
    assert re.search(r"^  cpu +CPU of \[b\]host +8\.00 GiB +4\.00 GiB ", here, flags=re.MULTILINE)
    document = json.loads(run("devices", "--json").stdout)
    assert {"t4", "h200", "l4"} <= {profile["name"] for profile in document["devices"]}
    verbose = run("devices", "--verbose").stdout
    known = next(profile for profile in document["devices"] if profile["name"] == "t4")
    for words in (*known["aliases"], *known["sources"].values()):
        assert words in verbose


@pytest.mark.pure
def test_devices_when_the_driver_fails(quick_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken driver is said, and hides neither the catalogue nor the CPU."""
    import estimator.devices

    def broken(extra: object) -> list[DeviceProfile]:
        raise DeviceError("the driver does not answer", where="NVML")

    monkeypatch.setattr(estimator.devices, "gpus_here", broken)
    result = run("devices")
    assert result.exit_code == 0
    assert "not looked at: the driver does not answer" in result.stdout
    assert "cpu" in result.stdout
    assert json.loads(run("devices", "--json").stdout)["problems"] == ["the driver does not answer"]


@pytest.mark.torch
def test_devices_of_this_machine() -> None:
    """The real thing: this machine's CPU, with what is free now and what torch takes before the first tensor."""
    here = json.loads(run("devices", "--json").stdout)["here"][-1]
    assert here["kind"] == "cpu"
    assert 0 < here["free_bytes"] <= here["total_bytes"]
    assert here["context_bytes"] > 20 * MIB


@pytest.mark.pure
def test_devices_of_the_users_own_with_names_as_they_are(quick_cpu: None, tmp_path: Path) -> None:
    """--profiles adds devices; their names are no markup."""
    (tmp_path / "mine.toml").write_text(
        'name = "[red]mine"\ntitle = "[/]"\nkind = "cuda"\ntotal_bytes = 1073741824\ncompute_capability = [8, 0]\n'
        "multiprocessor_count = 1\n"
    )
    assert re.search(
        r"^  \[red\]mine +\[/\] +1\.00 GiB", run("devices", "--profiles", tmp_path).stdout, flags=re.MULTILINE
    )


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """2.5 MiB, then 4 MiB beside it, then the first freed: both lie in one segment of 20 MiB.

    Source: c10/cuda/CUDACachingAllocator.cpp, get_allocation_size: requests of 1 to 10 MiB take 20 MiB from CUDA.
    """
    events = [
        {"action": "segment_alloc", "addr": 0x1000000, "size": 20 * MIB, "stream": 0},
        {"action": "alloc", "addr": 0x1000000, "size": 5 * MIB // 2, "stream": 0},
        {"action": "alloc", "addr": 0x1000000 + 5 * MIB // 2, "size": 4 * MIB, "stream": 0},
        {"action": "free_requested", "addr": 0x1000000, "size": 5 * MIB // 2, "stream": 0},
    ]
    path = tmp_path / "history.json"
    path.write_text(json.dumps(events))
    return path


@pytest.mark.pure
def test_replay_of_a_recorded_history(history: Path) -> None:
    """The peaks, the segments and whether the recording agrees, in JSON and in text."""
    result = run("replay", history, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert [document[f"peak_{name}_bytes"] for name in ("requested", "allocated", "reserved")] == [
        13 * MIB // 2,
        13 * MIB // 2,
        20 * MIB,
    ]
    assert (document["segments"], document["oom"]) == ([20 * MIB], None)
    text = run("replay", history).stdout
    assert "20,971,520" in text
    assert re.search(r"segments +1: 1 of 20\.00 MiB$", text, flags=re.MULTILINE)
    assert "the same, to the byte" in text


@pytest.mark.pure
def test_replay_that_runs_out(history: Path) -> None:
    """Under --limit it exits 1 and says where it ran out. Not even one segment of 20 MiB fits in 12 MiB."""
    result = run("replay", history, "--limit", "12MiB", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["oom"]["size_bytes"] == 5 * MIB // 2
    text = run("replay", history, "--limit", "12MiB")
    assert text.exit_code == 1
    assert re.search(r"runs out +at event 0 \(row 1 of the recording\).* asks for 2\.50 MiB", text.stdout)
    assert "differs: " in text.stdout
    assert "limit     12.00 MiB (12,582,912 bytes)" in text.stdout


@pytest.mark.pure
def test_replay_takes_other_settings(history: Path) -> None:
    """--alloc-conf replaces the recording's; a wrong one is a usage error. Half steps make 3 MiB of 2.5."""
    rounding = ("--alloc-conf", "roundup_power2_divisions:2")
    document = json.loads(run("replay", history, *rounding, "--json").stdout)
    assert (document["alloc_conf"], document["peak_allocated_bytes"]) == (rounding[1], 7 * MIB)
    wrong = run("replay", history, "--alloc-conf", "no_such_setting:1")
    assert wrong.exit_code == 2
    assert "--alloc-conf" in wrong.stderr
