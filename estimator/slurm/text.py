"""What fits where, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from estimator.host import Loading
from estimator.host_memory import HostMemory
from estimator.report.host import HOST_COLUMNS, host_rows
from estimator.report.page import Page
from estimator.result import SCHEMA_VERSION
from estimator.slurm.inside import Allocation
from estimator.slurm.offers import Offer, sbatch_lines, type_name
from estimator.slurm.verdict import ScriptVerdict
from estimator.units import format_bytes

_COLUMNS = [
    ("partition", False), ("type", False), ("device", False), ("GPUs/node", True), ("nodes up", True),
    ("largest batch", True), ("batch", True), ("on the card", True), ("--mem", True), ("fits", False),
]  # fmt: skip


def write_answer(
    page: Page,
    offers: Sequence[Offer],
    verdict: ScriptVerdict | None,
    inside: Allocation | None,
    loading: Loading,
    *,
    verbose: bool,
) -> None:
    """Write the table of offers, then the script's verdict or the lines that ask for the best of them."""
    if inside is not None:
        gpus = ", ".join(f"{type_name(g)}:{g.count}" for g in inside.gpus)
        page.heading(f"Job {inside.job} on {inside.node or 'its node'}: {gpus} ({inside.source})")
    else:
        page.heading("What fits where" if verdict is None else f"Where {verdict.script.path} may run")
    page.table(_COLUMNS, map(_row, offers))
    if verdict is not None:
        _write_verdict(page, verdict)
    else:
        _write_lines(page, offers, loading, inside, every=verbose)
    if verbose:
        for offer in offers:
            if offer.host is not None:
                page.heading(f"Host of {_name(offer)} at batch {offer.batch_size}")
                page.table(
                    HOST_COLUMNS,
                    host_rows(offer.host),
                )
    told = _warnings(offers, loading) + list(verdict.warnings if verdict else ())
    if told:
        page.heading(f"Warnings ({len(dict.fromkeys(told))})")
        for text in dict.fromkeys(told):
            page.line(text, indent=2)


def _write_verdict(page: Page, verdict: ScriptVerdict) -> None:
    if verdict.fits:
        page.heading("The script can run: every GPU it may get holds the batch")
        return
    page.heading("The script cannot run as it stands", style="bold red")
    for text in verdict.problems:
        page.line(text, indent=2)


def _write_lines(
    page: Page, offers: Sequence[Offer], loading: Loading, inside: Allocation | None, *, every: bool
) -> None:
    fitting = [offer for offer in offers if offer.fits]
    if inside is None:
        for offer in fitting if every else best(offers)[:1]:
            page.heading(f"For {_name(offer)}, batch {offer.batch_size}")
            for line in sbatch_lines(offer, offers, loading.workers):
                page.line(line)
    for offer in offers:
        for problem in offer.problems:
            page.line(f"{_name(offer)}: {problem}")
        if offer.match.profile is None:
            page.line(f"{_name(offer)}: {offer.match.how}; say it with --gpu-type {type_name(offer.gpu_type)}=DEVICE or =FILE.toml")
    if not fitting:
        page.heading("It fits nowhere here", style="bold red")


def best(offers: Sequence[Offer]) -> list[Offer]:
    """Offers that fit, the largest batch first, then where most nodes are up."""
    fitting = [offer for offer in offers if offer.fits and offer.answer is not None]
    return sorted(fitting, key=lambda o: (-(o.answer.max_batch_size if o.answer else 0), -o.usable_count))


def document(
    offers: Sequence[Offer], verdict: ScriptVerdict | None, inside: Allocation | None, loading: Loading
) -> dict[str, Any]:
    """The same facts for a program."""
    answer: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "fits": verdict.fits if verdict is not None else any(offer.fits for offer in offers),
        "offers": [_offer(offer, offers, loading) for offer in offers],
        "warnings": list(dict.fromkeys(_warnings(offers, loading))),
    }
    if inside is not None:
        answer["job"] = {"id": inside.job, "node": inside.node, "memory_mib": inside.memory_mib, "source": inside.source}
    if verdict is not None:
        answer["script"] = {
            "path": verdict.script.path, "problems": list(verdict.problems), "warnings": list(verdict.warnings),
        }  # fmt: skip
    return answer


def _offer(offer: Offer, offers: Sequence[Offer], loading: Loading) -> dict[str, Any]:
    batch = offer.answer.at(offer.batch_size) if offer.answer is not None else None
    return {
        "partition": offer.partition.name,
        "gpu_type": offer.gpu_type or None,
        "device": offer.key[2] or None,
        "known_by": offer.match.how,
        "gpus_per_node": offer.gpus_per_node,
        "nodes": offer.node_count,
        "nodes_up": offer.usable_count,
        "node_memory_mib": offer.memory_mib,
        "max_batch_size": offer.answer.max_batch_size if offer.answer is not None else None,
        "batch_size": offer.batch_size if batch is not None else None,
        "device_bytes": batch.device_bytes if batch is not None else None,
        "host_low_bytes": offer.host.low_bytes if offer.host is not None else None,
        "host_high_bytes": offer.host.high_bytes if offer.host is not None else None,
        "host": _host(offer.host) if offer.host is not None else [],
        "fits": offer.fits,
        "problems": list(offer.problems),
        "sbatch": sbatch_lines(offer, offers, loading.workers) if offer.fits else [],
    }


def _row(offer: Offer) -> list[str]:
    up = f"{offer.usable_count}/{offer.node_count}"
    name = offer.partition.name + ("*" if offer.partition.is_default else "")
    start = [name, type_name(offer.gpu_type), offer.key[2] or "?", str(offer.gpus_per_node), up]
    if offer.answer is None or offer.host is None:
        return [*start, "-", "-", "-", "-", "unknown"]
    size = format_bytes(offer.answer.at(offer.batch_size).device_bytes)
    largest = str(offer.answer.max_batch_size)
    memory = f"{offer.host.request_mib}M"
    return [*start, largest, str(offer.batch_size), size, memory, "yes" if offer.fits else "no"]


def _name(offer: Offer) -> str:
    return f"{offer.partition.name}, {type_name(offer.gpu_type)}" + (f" ({offer.key[2]})" if offer.key[2] else "")


def _host(memory: HostMemory) -> list[dict[str, Any]]:
    return [
        {**line.model_dump(), "name": f"{moment}: {line.name}" if moment else line.name}
        for moment, line in memory.moments()
    ]


def _warnings(offers: Sequence[Offer], loading: Loading) -> list[str]:
    told = [offer.match.assumed for offer in offers if offer.match.assumed]
    if loading.workers == 0:
        told.append("--mem is for a DataLoader without workers; say --workers if there are some")
    told.append("--mem does not count what the dataset itself keeps in memory")
    for offer in offers:
        told += [f"{w.code}: {w.message}" for w in (offer.answer.warnings if offer.answer is not None else ())]
    return told
