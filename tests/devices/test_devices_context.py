"""What a CUDA context takes: the rule and the catalogue, held against published figures."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

import pytest

from estimator.device import DeviceProfile
from estimator.devices.catalogue import load_profiles
from estimator.devices.context import (
    BYTES_PER_RESIDENT_THREAD,
    LOADED_MODULES_HIGH_BYTES,
    LOADED_MODULES_TYPICAL_BYTES,
    context_interval,
    estimated_context,
    with_context,
)
from estimator.errors import ConfigError
from estimator.units import parse_bytes

pytestmark = pytest.mark.pure

MIB = 1 << 20
ROUNDING_BYTES = 16 * MIB
"""Reports write up to three figures to 0.01 GiB; each is off by at most 5.12 MiB."""

with (Path(__file__).parent.parent / "data" / "context_reports.csv").open(newline="") as _file:
    REPORTS = list(csv.DictReader(_file))


def outside(report: dict[str, str]) -> int:
    """Bytes that a process holds outside PyTorch's allocator."""
    return parse_bytes(report["in_use"]) - parse_bytes(report["allocated"]) - parse_bytes(report["unallocated"])


def card(report: dict[str, str]) -> DeviceProfile:
    major, minor = report["compute_capability"].split(".")
    return DeviceProfile(
        name=report["card"], kind="cuda", total_bytes=1 << 30, compute_capability=(int(major), int(minor)),
        multiprocessor_count=int(report["multiprocessor_count"]),
    )  # fmt: skip


def bare_context(profile: DeviceProfile) -> int:
    known = load_profiles().get(profile.name, with_context(profile))
    return known.context_bytes - LOADED_MODULES_TYPICAL_BYTES


@pytest.mark.parametrize("report", [r for r in REPORTS if r["kind"] == "bare"], ids=lambda r: r["card"])
def test_measured_bare_contexts_are_within_5_percent_of_the_rule(report: dict[str, str]) -> None:
    profile = card(report)
    assert profile.multiprocessor_count is not None
    rule = profile.multiprocessor_count * profile.threads_per_multiprocessor * BYTES_PER_RESIDENT_THREAD
    assert abs(outside(report) - rule) * 20 <= rule


@pytest.mark.parametrize("report", REPORTS, ids=lambda r: f"{r['card']}-{r['in_use']}")
def test_published_figures_lie_in_the_interval(report: dict[str, str]) -> None:
    profile = with_context(card(report))
    low, _, high = context_interval(load_profiles().get(profile.name, profile))
    assert low - ROUNDING_BYTES <= outside(report) <= high + ROUNDING_BYTES


def test_the_bytes_of_loaded_modules_are_the_median_and_the_most_of_the_reports() -> None:
    loaded = [outside(r) - bare_context(card(r)) for r in REPORTS if r["kind"] == "step"]
    assert len(loaded) == 33
    assert 0 <= LOADED_MODULES_TYPICAL_BYTES - statistics.median(loaded) < MIB
    assert 0 <= LOADED_MODULES_HIGH_BYTES - max(loaded) < 8 * MIB


@pytest.mark.parametrize("profile", load_profiles().values(), ids=lambda p: p.name)
def test_the_catalogue_keeps_to_the_rule_or_to_a_measured_context(profile: DeviceProfile) -> None:
    low, typical, high = context_interval(profile)
    if profile.sources["context_low_bytes"].startswith("assumed"):
        assert (low, typical, high) == estimated_context(profile)
    else:
        assert (typical, high) == (low + LOADED_MODULES_TYPICAL_BYTES, low + LOADED_MODULES_HIGH_BYTES)


def test_eager_loading_takes_more_at_every_end() -> None:
    profile = load_profiles()["rtx-3090"]
    lazy, eager = context_interval(profile), context_interval(profile, module_loading="EAGER")
    assert eager[0] - lazy[0] == 666_632_192 - 287_047_680
    assert eager[2] - lazy[2] == (1687 - 256) * MIB
    assert lazy[1] < eager[0] < eager[1] < eager[2]


def test_a_cpu_has_no_modules_to_load() -> None:
    profile = DeviceProfile(name="cpu", kind="cpu", total_bytes=10, context_bytes=3)
    assert context_interval(profile, module_loading="EAGER") == (3, 3, 3)
    assert estimated_context(profile) == (3, 3, 3)
    assert with_context(profile) is profile


def test_a_figure_without_an_interval_is_its_own_interval() -> None:
    profile = card(REPORTS[0]).model_copy(update={"context_bytes": 5})
    assert context_interval(profile) == (5, 5, 5)


def test_other_ways_of_loading_are_refused() -> None:
    with pytest.raises(ConfigError, match="LAZY"):
        context_interval(load_profiles()["t4"], module_loading="SOMETIMES")  # type: ignore[arg-type]
