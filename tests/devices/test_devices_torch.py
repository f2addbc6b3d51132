"""Where the devices meet torch itself."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from estimator.devices import memory
from estimator.devices.imports import installed_modules
from estimator.devices.memory import baseline_rss_bytes
from estimator.devices.nvml import Card
from estimator.devices.visible import visible_cards

pytestmark = pytest.mark.torch

MIB = 1 << 20


@pytest.mark.parametrize("variable", ["", "-1", "1", "1, 0", "0,-1,1", "0,0", "1gpu,0x", "none", "GPU-a0,GPU-a0"])
def test_cuda_visible_devices_as_torch_reads_it(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own parser, fed the same variable, names the same cards."""
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    parsed = torch.cuda._parse_visible_devices()
    plain = [Card(n, f"GPU-{name}", "card", 1, 0, 1, (8, 0)) for n, name in enumerate(("a0", "b0"))]
    expected = [plain[entry].uuid if isinstance(entry, int) else entry for entry in parsed]
    assert [card.uuid for card in visible_cards(plain, variable)] == expected


def test_an_interpreter_with_torch_takes_some_hundred_mebibytes() -> None:
    """Seen: 327 MiB (2.13.0+cpu); a CUDA build takes more. The child is started once for the same imports."""
    before = memory._baseline.cache_info().misses
    assert 64 * MIB < baseline_rss_bytes() < 2048 * MIB
    modules = installed_modules()
    assert baseline_rss_bytes() == memory._baseline(importlib.metadata.version("torch"), modules).rss_bytes
    assert memory._baseline.cache_info().misses <= before + 1


def test_what_the_job_imports_is_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weighs_32_mib.py").write_text("room = bytes(range(1, 129)) * (1 << 18)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    version = importlib.metadata.version("torch")
    plain = memory._baseline(version, ())
    more = memory._baseline(version, ("no_such_module", "weighs_32_mib"))
    assert 31 * MIB < more.rss_bytes - plain.rss_bytes < 40 * MIB
