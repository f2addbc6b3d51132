"""`batch-estimator slurm JOB`: what fits on each kind of GPU of a cluster, and the lines that ask for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from estimator.commands import options as o
from estimator.commands.job_options import takes_job_options
from estimator.commands.jobs import check_torch_version, read_job
from estimator.commands.run import DOES_NOT_FIT, FITS, answer_alone_on_stdout, guarded, write_json
from estimator.errors import UsageError

if TYPE_CHECKING:
    from estimator.device import DeviceProfile
    from estimator.host import Loading
    from estimator.job import TrainingJob
    from estimator.slurm import Allocation, Cluster, Offer, Partition, ScriptVerdict

_WHERE = "Where it may run"
_HOST = "What the host holds (for --mem)"


def _said(*names: str, panel: str, help: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, help=help, metavar=metavar, show_default=False, **more)


PartitionName = Annotated[
    str | None, _said("--partition", "-p", panel=_WHERE, metavar="NAME", help="Only this partition.")
]
GpuTypes = Annotated[
    list[str] | None,
    _said(
        "--gpu-type",
        panel=_WHERE,
        metavar="TYPE=DEVICE",
        help="What a GPU type of the cluster is: a100=a100-80gb, PARTITION/TYPE=DEVICE, gpu=t4 for GPUs without a type; "
        "DEVICE is a name or a TOML file. May be repeated.",
    ),
]
Sbatch = Annotated[
    Path | None, _said("--sbatch", panel=_WHERE, metavar="FILE", help="Check this batch script; exit 1 if it cannot fit.")
]
Everywhere = Annotated[
    bool, _said("--all", panel=_WHERE, help="Inside a job: the whole cluster, not the job's own GPU.")
]
Workers = Annotated[
    int, _said("--workers", panel=_HOST, metavar="N", min=0, help="num_workers of the DataLoader. Default: 0.")
]
Prefetch = Annotated[
    int, _said("--prefetch-factor", panel=_HOST, metavar="N", min=1, help="Batches a worker keeps ready. Default: 2.")
]
Pinned = Annotated[bool, _said("--pin-memory/--no-pin-memory", panel=_HOST, help="pin_memory of the DataLoader.")]
State = Annotated[
    str,
    _said(
        "--state-load",
        panel=_HOST,
        metavar="WHAT",
        help="What is loaded to the host at the start: none, weights or checkpoint (with optimizer state). "
        "Default: checkpoint.",
    ),
]
BatchSize = Annotated[
    int | None, _said("--batch-size", "-b", panel=o.ANSWER, metavar="N", min=1, help="Ask for this batch size.")
]


@guarded
@takes_job_options
def slurm(
    job: o.Job,
    partition: PartitionName = None,
    gpu_type: GpuTypes = None,
    sbatch: Sbatch = None,
    everywhere: Everywhere = False,
    profiles: o.Profiles = None,
    torch_version: o.TorchVersion = None,
    workers: Workers = 0,
    prefetch_factor: Prefetch = 2,
    pin_memory: Pinned = False,
    state_load: State = "checkpoint",
    batch_size: BatchSize = None,
    as_json: o.AsJson = False,
    verbose: o.Verbose = False,
    allow_real_run: o.AllowRealRun = False,
    isolate: o.Isolate = None,
    time_limit: o.TimeLimit = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
    *,
    job_options: dict[str, Any],
) -> int:
    """Say what fits on each kind of GPU of a Slurm cluster, with #SBATCH lines.

    With --sbatch a script is checked instead. Inside a job the answer is for the job's own GPU. Exit code: 0 it fits
    somewhere (the script: it can run), 1 it does not, 2 not well put or no Slurm, 3 no honest number can be given.
    """
    check_torch_version(torch_version)
    from estimator.report.progress import Progress

    with answer_alone_on_stdout(), Progress(quiet=quiet) as progress:
        from estimator.devices import load_profiles
        from estimator.host import Loading
        from estimator.slurm import allocation_here, judge, make_offers, read_cluster, read_script
        from estimator.slurm.types import parse_types

        loading = Loading(workers, prefetch_factor, pin_memory, state_load)  # type: ignore[arg-type]
        known, given = load_profiles(profiles), parse_types(gpu_type or (), profiles)
        script = None if sbatch is None else read_script(sbatch)
        progress("asking Slurm")
        inside = None if everywhere or partition or script is not None else allocation_here(os.environ)
        cluster = None if inside is not None else read_cluster()
        chosen: list[Partition] = []
        if cluster is None:
            assert inside is not None
            chosen, given = _of_allocation(inside, given, profiles)
        elif script is None:
            chosen = _chosen(cluster, partition)
        progress("loading the job")
        files = job_options.pop("config") or ()
        loaded, wanted = read_job(job, files, on_card=True, **job_options, batch_size=batch_size)
        loading = loading.over(loaded)
        predict = _predictor(loaded, torch_version, allow_real_run, isolate, time_limit, progress)
        host = _host_of(loaded, loading)
        verdict: ScriptVerdict | None = None
        if script is not None and cluster is not None:
            verdict = judge(script, cluster, known, given, predict, host, wanted, loading.workers)
            offers = list(verdict.offers)
        else:
            offers = make_offers(chosen, known, given, predict, host, wanted)
            _refuse_if_all_unknown(offers)
        progress("writing")
    _show(offers, verdict, inside, loading, as_json=as_json, verbose=verbose)
    fits = verdict.fits if verdict is not None else any(offer.fits for offer in offers)
    return FITS if fits else DOES_NOT_FIT


def _chosen(cluster: Cluster, partition: str | None) -> list[Partition]:
    """The partitions to look at.

    Raises:
        UsageError: there is no such partition, or it (or any) has no GPUs.
    """
    with_gpus = cluster.with_gpus()
    if partition is None:
        return with_gpus
    found = cluster.get(partition)
    if not found.has_gpus:
        raise UsageError(
            "this partition has no GPUs", got=partition, allowed=", ".join(part.name for part in with_gpus),
            where="--partition",
        )  # fmt: skip
    return [found]


def _of_allocation(inside: Allocation, given: dict[str, Any], extra: Path | None) -> tuple[list[Partition], dict[str, Any]]:
    """The job that this process is in, as a partition of one node; NVML's own word on the card comes first.

    Raises:
        UsageError: the job has no GPU.
    """
    from estimator.devices import gpus_here
    from estimator.slurm import NodeGroup, Partition

    if not inside.gpus:
        raise UsageError(
            "the Slurm job that this is running in has no GPU", got=f"job {inside.job}", where=inside.source,
            hint="--all looks at the whole cluster",
        )  # fmt: skip
    seen = gpus_here(extra)
    if seen:
        kinds = {gpus.type or "gpu" for gpus in inside.gpus}
        given = given | {kind: seen[0] for kind in kinds if kind not in given}
    cpus = os.environ.get("SLURM_CPUS_ON_NODE", "")
    group = NodeGroup(
        partition=inside.partition,
        gpus=inside.gpus,
        features=inside.features,
        memory_mib=inside.memory_mib or _ram_mib(),
        cpus=int(cpus) if cpus.isdigit() else 1,
        states={"alloc": 1},
        nodes=inside.node,
    )
    return [Partition(name=inside.partition, groups=(group,))], given


def _ram_mib() -> int:
    from estimator.devices.memory import ram_here

    return ram_here().total_bytes >> 20


def _predictor(
    job: TrainingJob, torch_version: str | None, real: bool, isolate: bool | None, limit: float | None, progress: Any
) -> Callable[[DeviceProfile], Any]:
    """The estimate on a device, with the traces that devices share made once."""
    from estimator.pipeline import estimate
    from estimator.traces import TIME_LIMIT_SECONDS, Traces

    traces = Traces(
        job, isolate=isolate, time_limit_seconds=TIME_LIMIT_SECONDS if limit is None else limit, larger_vouches=True
    )

    def predict(profile: DeviceProfile) -> Any:
        progress(f"predicting for {profile.name}")
        return estimate(
            job, profile, torch_version=torch_version, allow_real_run=real, progress=progress, traces=traces,
            cross_check=False,
        )  # fmt: skip

    return predict


def _host_of(job: TrainingJob, loading: Loading) -> Any:
    from estimator.host import host_memory

    return lambda answer, size: host_memory(
        answer, size, loading, on_host=job.build == "host", checkpoint=job.checkpoint
    )


def _refuse_if_all_unknown(offers: list[Offer]) -> None:
    unknown = [f"{o.partition.name}/{o.gpu_type or 'gpu'}: {o.match.how}" for o in offers if o.match.profile is None]
    if len(unknown) == len(offers):
        raise UsageError(
            "none of this cluster's GPUs is known by its type", problems=unknown, where="sinfo",
            hint="say it with --gpu-type TYPE=DEVICE (`batch-estimator devices` lists devices; a TOML file is one too)",
        )  # fmt: skip


def _show(
    offers: list[Offer],
    verdict: ScriptVerdict | None,
    inside: Allocation | None,
    loading: Loading,
    *,
    as_json: bool,
    verbose: bool,
) -> None:
    from estimator.slurm.text import document, write_answer

    if as_json:
        write_json(document(offers, verdict, inside, loading))
        return
    from estimator.report.page import page_on_stdout

    with page_on_stdout() as page:
        write_answer(page, offers, verdict, inside, loading, verbose=verbose)
