"""Where the devices meet torch itself."""

from __future__ import annotations

import importlib.metadata

import pytest

from estimator.devices import memory
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
    """Seen: 220 MiB (2.13.0+cpu); a CUDA build takes more. The child is started once a version."""
    before = memory._baseline.cache_info().misses
    assert 64 * MIB < baseline_rss_bytes() < 2048 * MIB
    assert baseline_rss_bytes() == memory._baseline(importlib.metadata.version("torch")).rss_bytes
    assert memory._baseline.cache_info().misses <= before + 1
