"""`batch-estimator calibrate [JOB]`: two real steps on the device that is here, and a profile of what they showed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from estimator.commands import options as o
from estimator.commands.job_options import takes_job_options
from estimator.commands.jobs import lay_options
from estimator.commands.run import FITS, answer_alone_on_stdout, check_writable, guarded, write_json
from estimator.errors import UsageError

if TYPE_CHECKING:
    from estimator.device import DeviceProfile

DEFAULT_JOB = "estimator.calibrate.default_job:job"
_OWN_BATCH_SIZE = 8
"""Of a job that is named without one: small, as what is measured does not hang on it."""


def _said(*names: str, panel: str = o.ANSWER, help: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, help=help, metavar=metavar, show_default=False, **more)


Job = Annotated[
    str | None,
    typer.Argument(metavar="JOB", show_default=False, help="As of `predict`; its code is run. Default: a small one of ours."),
]
Here = Annotated[
    str | None,
    _said("--device", "-d", panel=o.DEVICE, metavar="cpu|cuda[:N]", help="Which of this machine's. Default: a GPU if any."),
]
BatchSize = Annotated[
    int | None, _said("--batch-size", "-b", panel=o.WORK, metavar="N", min=1, help="Samples of a step. Default: 8 of JOB.")
]
Repeats = Annotated[
    int, _said("--repeat", panel=o.WORK, metavar="N", min=1, help="Processes that are measured; the largest counts. Default: 3.")
]
Output = Annotated[Path | None, _said("--output", "-o", metavar="FILE", help="The profile. Default: NAME.toml.")]
Name = Annotated[str | None, _said("--name", metavar="NAME", help="Of the profile. Default: the card's, or cpu-MACHINE.")]
Force = Annotated[bool, _said("--force", help="Write over the file if it is there.")]


@guarded
@takes_job_options
def calibrate(
    job: Job = None,
    device: Here = None,
    profiles: o.Profiles = None,
    batch_size: BatchSize = None,
    repeat: Repeats = 3,
    output: Output = None,
    name: Name = None,
    force: Force = False,
    as_json: o.AsJson = False,
    time_limit: o.TimeLimit = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
    *,
    job_options: dict[str, Any],
) -> int:
    """Measure this machine's device by two real steps and write its profile.

    What cannot be known from outside (CUDA context, library workspaces, memory of the process) is measured in
    processes of its own, held against the prediction, and kept in the file. Exit code: 0 written, 2 not well put,
    3 the steps failed.
    """
    check_writable(output, "--output")
    from estimator.calibrate import Plan, calibrate, calibrated_profile, profile_text, write_profile
    from estimator.calibrate.profile import check_absent
    from estimator.report.progress import Progress

    if output is not None:
        check_absent(output, force)
    limits: dict[str, Any] = {} if time_limit is None else {"time_limit_seconds": time_limit}
    with answer_alone_on_stdout(), Progress(quiet=quiet) as progress:
        progress("looking at this machine")
        profile, card = device_here(device, profiles)
        progress("loading the job")
        from estimator.calibrate.default_job import BATCH_SIZE
        from estimator.sources import load_job

        spec = job or DEFAULT_JOB
        options = lay_options(
            job_options["config"] or (),
            **{key: value for key, value in job_options.items() if key != "config"},
        )
        loaded = load_job(spec, options)
        plan = Plan(
            spec=spec,
            options=options.model_dump(exclude_none=True, exclude={"notes", "batch_size"}, mode="json"),
            batch_size=batch_size or options.batch_size or (_OWN_BATCH_SIZE if job else BATCH_SIZE),
            card=card,
        )
        found = calibrate(loaded, plan, profile, repeats=repeat, progress=progress, **limits)
        made = calibrated_profile(found, name)
        path = output or Path(f"{made.name}.toml")
        write_profile(path, profile_text(found, made), force=force)
    if as_json:
        write_json({"file": str(path), "profile": made.model_dump(mode="json"), "calibration": found.model_dump(mode="json")})
        return FITS
    from estimator.calibrate.text import write_calibration
    from estimator.report.page import page_on_stdout

    with page_on_stdout() as page:
        write_calibration(page, found, made)
        page.heading(f"Written to {path}")
        page.line(f"batch-estimator predict JOB --device {path}", indent=2)
    return FITS


def device_here(device: str | None, profiles: Path | None) -> tuple[DeviceProfile, str | None]:
    """The device that is to be measured, and the card's UUID; None for the CPU.

    Raises:
        UsageError: a device that is not this machine's.
        DeviceError: there is no such GPU.
    """
    from estimator.devices import is_this_machine, resolve_device, visible_here

    if not is_this_machine(device):
        raise UsageError(
            "only a device of this machine can be measured", got=str(device), allowed="cpu, cuda or cuda:N",
            where="--device", hint="run it on the machine that has the device, and share the file it writes",
        )  # fmt: skip
    profile = resolve_device(device, profiles=profiles)
    if profile.kind == "cpu":
        return profile, None
    index = (device or "").partition(":")[2]
    return profile, visible_here()[int(index or 0)].uuid
