"""No source of jobs asks the network for anything, whatever the library's config names as the home of its weights."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from estimator.sources import JobOptions, load_job
from estimator.sources.torchvision_import import import_torchvision

pytestmark = pytest.mark.torch


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hosts that were asked for; every question is refused."""
    found: list[str] = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        found.append(str(args))
        raise OSError("a test has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return found


@pytest.mark.parametrize("name", ["repvit_m1", "repvit_m1.dist_in1k", "vit_tiny_patch16_224", "tf_efficientnet_b0_ns"])
def test_timm(name: str, asked: list[str]) -> None:
    """Of models whose configs name weights on a hub: as they are called now, by a tag, and by a former name."""
    import_torchvision(required=False)
    pytest.importorskip("timm")
    import torch

    job = load_job(f"timm:{name}", JobOptions())
    with torch.device("meta"):
        assert sum(p.numel() for p in job.model().parameters()) > 10**6
    assert asked == []


def test_transformers(tmp_path: Path, asked: list[str]) -> None:
    """A config that names where it came from."""
    import_torchvision(required=False)
    pytest.importorskip("transformers")
    import torch

    config = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 16, "_name_or_path": "somebody/gpt2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    job = load_job(f"hf:{tmp_path}", JobOptions(sequence_length=8))
    with torch.device("meta"):
        assert job.model().config.n_embd == 8
    assert asked == []


def test_a_name_on_the_hub_is_no_name_of_timm(asked: list[str]) -> None:
    from estimator.errors import SourceError

    import_torchvision(required=False)
    pytest.importorskip("timm")
    for name in ("timm/repvit_m1", "hf-hub:timm/repvit_m1.dist_in1k"):
        with pytest.raises(SourceError, match="no such model"):
            load_job(f"timm:{name}", JobOptions())
    assert asked == []
