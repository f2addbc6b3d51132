"""The answer put together: the solved batch, its neighbours, what limits it, and all that must be said with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from estimator.counts import activation_count, matrix_flops, step_flops
from estimator.device import Target
from estimator.evaluate import Evaluator
from estimator.job import TrainingJob
from estimator.ledger import Category
from estimator.result import BatchEstimate, Counts, Estimate, ModuleBytes, Warning
from estimator.solve import Solution, guessed, last_that_fits
from estimator.timeline import timeline
from estimator.units import MIB, format_bytes

_SETTINGS = (
    "precision",
    "mode",
    "grad_clip",
    "accumulation_steps",
    "grad_scaler",
    "channels_last",
    "zero_grad_set_to_none",
    "build",
    "cudnn_benchmark",
    "deterministic",
    "alloc_conf",
    "process_group",
)


def assemble(
    job: TrainingJob,
    target: Target,
    evaluator: Evaluator,
    solution: Solution,
    solve: Callable[[str], Solution],
    warnings: list[Warning],
    seconds: Mapping[str, float],
    fvcore: Any = None,
) -> Estimate:
    """Make the `Estimate` of a solved job; `solve("low")` gives the solution at the low end of the interval.

    `fvcore` is what fvcore counted of the same step (`FvcoreCounts`), None where it could not be asked.
    """
    model = evaluator.model
    best, following, low, without_retries = replayed(evaluator, solution, solve)
    answer = Estimate(
        job=job.name,
        settings=_settings(job, model.graph.facts),
        device=target.device,
        torch_version=target.torch_version,
        max_batch_size=solution.largest,
        max_batch_size_low=max(low.largest, solution.largest),
        max_batch_size_without_retries=without_retries,
        limited_by=_limit(solution, following, best),
        best=best,
        next=following if solution.largest else None,
        counts=_counts(evaluator, fvcore),
        modules=_modules(evaluator, best),
        timeline=timeline(evaluator.ledger(best.batch_size)),
        warnings=(
            *_all_warnings(evaluator, solution, warnings), *_unknown_scratch(evaluator, target, best.batch_size),
            *_disagreements(evaluator, fvcore),
        ),
        seconds=dict(seconds),
    )
    answer._at, answer._device_at, answer._ledger_at = evaluator.at, evaluator.device_at, evaluator.ledger
    answer._graph = model.graph.fx
    answer._model = model
    return answer


def replayed(
    evaluator: Evaluator, solution: Solution, solve: Callable[[str], Solution]
) -> tuple[BatchEstimate, BatchEstimate | None, Solution, int]:
    """All of an answer that takes replays: the largest batch, the next, the low end, the largest without retries.

    The evaluator keeps them: asked ahead of time, `assemble` has them at once.
    """
    largest = max(1, solution.largest)
    best = evaluator.at(largest)
    following = None if solution.unlimited else evaluator.at(solution.largest + 1) if solution.largest else best
    exact = evaluator.context_low == evaluator.context_high and not evaluator.model.has_interval(largest)
    low = solution if exact else solve("low")
    return best, following, low, _without_retries(evaluator, solution.largest)


def _settings(job: TrainingJob, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the answer besides model, data and device, each as one plain value."""
    variables = ", ".join(f"{name}={value}" for name, value in sorted(job.environment.items()))
    said = {name: getattr(job, name) for name in _SETTINGS}
    return {**said, "environment": variables, "optimizer": _optimizer_name(job, facts)}


def _optimizer_name(job: TrainingJob, facts: Mapping[str, Any]) -> str | None:
    """As the job names it; of a function that makes one, the class of what it made."""
    if job.optimizer is None or isinstance(job.optimizer, str):
        return job.optimizer
    return facts.get("optimizer") or getattr(job.optimizer, "__name__", type(job.optimizer).__name__)


def _without_retries(evaluator: Evaluator, largest: int) -> int:
    """The largest batch up to `largest` at which the allocator never has to give segments back."""
    if largest == 0 or evaluator.fits_without_retries(largest):
        return largest
    guess, step = guessed(
        lambda n: evaluator.unlimited_peak_reserved_bytes(n, "high"),
        evaluator.limit_bytes("high"),
        max(1, largest // 4),
    )
    return last_that_fits(lambda n: n < largest and evaluator.fits_without_retries(n), guess, step)[0]


def _limit(solution: Solution, following: BatchEstimate | None, best: BatchEstimate) -> str:
    if solution.unlimited:
        return solution.ended or "nothing on this device: memory does not grow with the batch, or a batch of millions still fits"
    failing = best if solution.largest == 0 else following
    assert failing is not None
    lines = sorted((line for line in failing.lines if line.size_bytes > 0), key=lambda line: -line.size_bytes)[:2]
    room = " and ".join(f"{line.name} ({format_bytes(line.size_bytes)})" for line in lines)
    place = failing.oom_at or "the device context"
    return f"batch {failing.batch_size} runs out in {place}; most of the room goes to {room}"


def _counts(evaluator: Evaluator, fvcore: Any) -> Counts:
    model, facts = evaluator.model, evaluator.model.graph.facts
    graph = model.graph
    return Counts(
        **{
            k: facts[k]
            for k in ("parameter_count", "trainable_parameter_count", "parameter_bytes", "buffer_bytes")
            if k in facts
        },
        gradient_bytes=int(model.bytes_of(Category.GRADIENT)[0]),
        optimizer_state_bytes=int(model.bytes_of(Category.OPTIMIZER_STATE)[0]),
        activation_bytes_per_sample=int(model.bytes_of(Category.ACTIVATION)[1]),
        flops_per_sample=sum(step_flops(graph, 0).values()) // graph.batch_size,
        fvcore_parameter_count=None if fvcore is None else fvcore.parameter_count,
        fvcore_activation_count=None if fvcore is None else fvcore.activation_count,
        fvcore_flops=None if fvcore is None or fvcore.multiply_add_count is None else 2 * fvcore.multiply_add_count,
    )


def _disagreements(evaluator: Evaluator, fvcore: Any) -> Iterator[Warning]:
    """Where our counts and fvcore's, of the same forward pass, are not the same."""
    graph = evaluator.model.graph
    if fvcore is None or fvcore.batch_size != graph.batch_size:
        return
    pairs = (
        ("parameters", graph.facts.get("parameter_count"), fvcore.parameter_count),
        ("activation elements of convolutions and matrix products", activation_count(graph), fvcore.activation_count),
        (
            "operations of convolutions and matrix products",
            matrix_flops(graph),
            None if fvcore.multiply_add_count is None else 2 * fvcore.multiply_add_count,
        ),
    )
    for what, ours, theirs in pairs:
        if theirs is not None and ours != theirs:
            skipped = f"; fvcore left out {', '.join(fvcore.skipped_ops)}" if fvcore.skipped_ops else ""
            yield Warning(
                code="fvcore-disagrees",
                message=f"{what} for {fvcore.batch_size} samples: {ours} here, {theirs} by fvcore{skipped}",
            )


def _modules(evaluator: Evaluator, best: BatchEstimate) -> tuple[ModuleBytes, ...]:
    """Bytes alive at the peak that `best` shows, by the module whose op made them; parameters by their own module."""
    model = evaluator.model
    ledger = evaluator.ledger(best.batch_size)
    live: dict[int, Any] = {}
    for event in ledger.events[: best.peak_event + 1]:
        if event.is_alloc:
            live[event.block] = event
        else:
            live.pop(event.block, None)
    table: dict[str, dict[str, int]] = {}
    for block, event in live.items():
        if event.category is Category.PARAMETER:
            module, kind = model.graph.names.get(block, "").rpartition(".")[0], "parameter_bytes"
        else:
            module = model.ops[event.op].module if event.op >= 0 else ""
            kind = {Category.ACTIVATION: "activation_bytes", Category.TEMPORARY: "temporary_bytes"}.get(
                event.category, ""
            )
        if kind:
            row = table.setdefault(module, {})
            row[kind] = row.get(kind, 0) + event.size_bytes
    return tuple(ModuleBytes(module=module, **row) for module, row in table.items())


def _heap_holes(evaluator: Evaluator, batch_size: int) -> Iterator[Warning]:
    """That a CPU's C library keeps freed memory, which the answer does not count, nor its interval.

    No bound is known that the high end could take: what best fit keeps is bounded only by the live bytes times the
    largest request (Source: J. M. Robson, "Worst case fragmentation of first fit and best fit storage allocation
    strategies", The Computer Journal 20, 1977), and the figure by glibc's rules was up to 2.8 times too small where it
    was measured (`estimator.allocator.malloc`).
    """
    from estimator.allocator.malloc import heap_holes, keeps_holes

    if evaluator.device.kind != "cpu" or not keeps_holes():
        return
    holes = heap_holes(evaluator.ledger(batch_size), evaluator.unlimited(batch_size).peak_requested_bytes)
    if holes >= MIB:
        yield Warning(
            code="heap-holes",
            message=(
                "not counted, and outside the interval: tensors below 32 MiB come from the heap of the C library, which "
                f"keeps what is freed between others. At batch {batch_size} that is {format_bytes(holes)} by its rules, "
                "and may be more in a real process, whose other objects lie between; with MALLOC_MMAP_THRESHOLD_=131072 "
                "in the job's environment each tensor's memory is given back"
            ),
        )


def _unknown_scratch(evaluator: Evaluator, target: Target, n: int) -> Iterator[Warning]:
    """Ops whose hidden memory is not known, or only between bounds; each with the reason or the bounds."""
    from estimator.scratch import unknown_ops

    reasons, met = unknown_ops(target), dict.fromkeys(op.name for op in evaluator.model.ops)
    assumed = evaluator.model.assumed(n)
    named: dict[str, list[str]] = {}
    for name in met:
        if name in reasons:
            covered = "" if name in assumed else "; not counted, and the high end does not cover it"
            named.setdefault(reasons[name] + covered, []).append(name)
    for reason, names in named.items():
        yield Warning(code="scratch-unknown", message=f"{', '.join(names)}: {reason}")
    for name, (low, high) in assumed.items():
        yield Warning(
            code="scratch-assumed",
            message=(
                f"{name}: what the library takes at batch {n} is not known; between {format_bytes(low)} and "
                f"{format_bytes(high)} a call, and the high end counts"
            ),
        )


def _all_warnings(evaluator: Evaluator, solution: Solution, given: list[Warning]) -> list[Warning]:
    out = list(given)
    model = evaluator.model
    out += [Warning(code=code, message=text) for code, text in model.graph.warnings]
    if model.repeat_problem:
        out.append(Warning(code="steps-differ", message=model.repeat_problem))
    if solution.beyond:
        sizes = ", ".join(map(str, solution.beyond))
        out.append(
            Warning(
                code="not-monotone",
                message=(
                    f"batch {sizes} would fit again although {solution.largest + 1} does not: it hangs on the "
                    "order of blocks"
                ),
            )
        )
    out += _heap_holes(evaluator, max(1, solution.largest))
    if evaluator.context_low != evaluator.context_high:
        cuda = "the CUDA context with NCCL" if evaluator.nccl[2] else "the CUDA context"
        what = cuda if evaluator.device.kind == "cuda" else "what the process has beside its tensors"
        out.append(
            Warning(
                code="context-assumed",
                message=(
                    f"{what} is taken as {format_bytes(evaluator.context)}, between "
                    f"{format_bytes(evaluator.context_low)} and {format_bytes(evaluator.context_high)}: it cannot "
                    "be known from outside"
                ),
            )
        )
    return out
