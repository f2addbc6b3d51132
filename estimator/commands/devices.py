"""`batch-estimator devices`: what a job may be predicted for, and what this machine has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from estimator.commands import options as o
from estimator.commands.run import FITS, guarded, write_json
from estimator.errors import DeviceError
from estimator.units import format_bytes

if TYPE_CHECKING:
    from estimator.device import DeviceProfile
    from estimator.report.page import Page

_COLUMNS = [("name", False), ("title", False), ("usable", True), ("cc", True), ("SMs", True), ("context", True)]


@guarded
def devices(
    profiles: o.Profiles = None,
    as_json: o.AsJson = False,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """List the devices that --device takes, and what this machine has.

    `usable` is what PyTorch sees of the memory (and, of this machine, what is free now), `cc` the compute capability,
    `SMs` the multiprocessors, `context` what CUDA takes before the first tensor. --verbose adds aliases and the source
    of each number.
    """
    from estimator.devices import cpu_here, gpus_here, load_profiles
    from estimator.report.progress import Progress

    known = list(load_profiles(profiles).values())
    problems: list[DeviceError] = []
    with Progress(quiet=quiet) as progress:
        progress("looking at this machine")
        here = [*_found(lambda: gpus_here(profiles), problems), *_found(lambda: [cpu_here()], problems)]
    if as_json:
        write_json(
            {
                "devices": [profile.model_dump(mode="json") for profile in known],
                "here": [profile.model_dump(mode="json") for profile in here],
                "problems": [error.what for error in problems],
            }
        )
        return FITS
    from estimator.report.page import page_on_stdout

    with page_on_stdout() as page:
        page.heading("Devices that --device takes")
        page.table(_COLUMNS, map(_row, known))
        page.heading("This machine (no --device: the first)")
        page.table([*_COLUMNS[:3], ("free now", True), *_COLUMNS[3:]], map(_row_here, here))
        for error in problems:
            page.line(f"not looked at: {error}", indent=2)
        if verbose:
            _details(page, [*known, *here])
    return FITS


def _found(look: Callable[[], list[DeviceProfile]], problems: list[DeviceError]) -> list[DeviceProfile]:
    """What is here; a driver that fails must not hide the catalogue."""
    try:
        return look()
    except DeviceError as error:
        problems.append(error)
        return []


def _row(profile: DeviceProfile) -> list[str]:
    capability = ".".join(map(str, profile.compute_capability)) if profile.compute_capability else "-"
    count = str(profile.multiprocessor_count or "-")
    return [
        profile.name,
        profile.title,
        format_bytes(profile.total_bytes),
        capability,
        count,
        format_bytes(profile.context_bytes),
    ]


def _row_here(profile: DeviceProfile) -> list[str]:
    row = _row(profile)
    return [*row[:3], format_bytes(profile.capacity_bytes), *row[3:]]


def _details(page: Page, profiles: Iterable[DeviceProfile]) -> None:
    for profile in profiles:
        page.heading(f"{profile.name}: {profile.title}" if profile.title else profile.name)
        aliases = [("aliases", ", ".join(profile.aliases))] if profile.aliases else []
        figures = profile.model_dump(exclude={"name", "title", "aliases", "sources", "kind"}, exclude_none=True)
        rows = [
            (name, f"{_figure(value)} ({profile.sources.get(name, 'no source given')})")
            for name, value in figures.items()
        ]
        page.pairs([*aliases, *rows])


def _figure(value: object) -> str:
    if isinstance(value, tuple):
        return ".".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
