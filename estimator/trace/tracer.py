"""One trace from nothing to a `StepGraph`: build, optimizer, steps."""

from __future__ import annotations

import contextlib
import gc
import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from estimator.device import Target
from estimator.errors import JobError
from estimator.graph import StepGraph
from estimator.heap import heap_set_aside, not_collected
from estimator.job import TrainingJob
from estimator.random_state import drawn_from, random_kept
from estimator.trace.after import run_after_steps
from estimator.trace.batches import batch_maker
from estimator.trace.build import lent, make_model, register_storages
from estimator.trace.closures import decisions_of, remark_of
from estimator.trace.collated import BatchMaker
from estimator.trace.copies import fakes_deep_copied, modules_converted
from estimator.trace.eager import run_as_written
from estimator.trace.explain import explained
from estimator.trace.fakes import Fakes, without_cuda_guard
from estimator.trace.generation import prompts
from estimator.trace.lazy import initialise
from estimator.trace.optimizers import optimizer_maker
from estimator.trace.paths import ModulePaths
from estimator.trace.places import either
from estimator.trace.recorder import Recorder
from estimator.trace.step import StepRunner
from estimator.trace.uncompiled import compiler_brought_apart, leave_compiler_out
from estimator.trace.wrappers import with_nested_ints

Semantics = Callable[[Target], contextlib.AbstractContextManager[Any]]
"""Lays a device's decisions over the trace for as long as it is entered."""

STEPS = 3
"""Steps that are traced: state appears in the first, the second frees what the first left, the third repeats."""
REAL_RUN_LIMIT_COUNT = 8
"""Most samples of a real run: enough for the calibration batches, small enough for any machine."""


def trace(
    job: TrainingJob,
    target: Target,
    batch_size: int,
    semantics: Semantics | None = None,
    steps: int = STEPS,
    allow_real_run: bool = False,
) -> StepGraph:
    """Run the job's step on tensors without data and record it.

    With `allow_real_run` the step is first run on real tensors on the CPU, at `REAL_RUN_LIMIT_COUNT` samples or
    fewer, and what it reads there is taken for what it reads here.

    The user's model, its training mode, the random state and torch's defaults are as before afterwards.

    Raises:
        JobError: the job does not describe a step (loss, batch, model).
        TraceError: the step fails on tensors without data; the op and the user's line are named.
    """
    graph = StepGraph(batch_size)
    mode = with_nested_ints(Fakes(allow_non_fake_inputs=True))
    paths = ModulePaths()
    recorder = Recorder(graph, mode, paths, whole_host=target.device.kind == "cpu")
    if allow_real_run:
        from estimator.trace.reads import record_reads

        recorder.on_unknown = record_reads(job, min(batch_size, REAL_RUN_LIMIT_COUNT), steps).next_at
    with contextlib.ExitStack() as stack:
        stack.enter_context(_undisturbed())
        stack.enter_context(without_cuda_guard())
        stack.enter_context(fakes_deep_copied())
        stack.enter_context(modules_converted())
        stack.enter_context(compiler_brought_apart())
        stack.enter_context(explained(graph))
        stack.enter_context(run_as_written(graph))
        stack.enter_context(recorder.assumed.handed_out())
        overlay = stack.enter_context(semantics(target)) if semantics is not None else None
        recorder.own_check = lambda: getattr(overlay, "own_check", None)
        recorder.mark("model")
        model, recorded = make_model(job.model, job.precision, recorder, on_device=job.build == "device")
        initialise(model, job, recorder, batch_size)
        model = _converted(job, model, recorder, recorded)
        stack.enter_context(lent(model, mode, job.precision, recorder.device, live=isinstance(job.model, nn.Module)))
        model.train(job.mode == "train")
        register_storages(model, recorder, live=isinstance(job.model, nn.Module) or not recorded)
        paths.name_modules(model)
        stack.enter_context(paths)
        runner = _runner(job, model, recorder, mode, overlay)
        if (decisions := decisions_of(runner.optimizer, steps)) is not None:
            recorder.on_unknown = either(recorder.on_unknown, decisions.next_at)
            graph.warnings.append(("lbfgs-curvature", remark_of(runner.optimizer)))
        drawn = drawn_from()
        for index in range(steps):
            runner.run(index, batch_size)
            _collect_cycles(graph, recorder, index)
        run_after_steps(runner, batch_size)
        graph.warnings.extend(_decided_by_chance(drawn()))
        graph.facts.update(_counts(model))
        recorder.recording = False
        if remark := getattr(runner.make_batch, "remark", ""):
            graph.warnings.append(("samples-differ", remark))
        if overlay is not None:
            graph.warnings.extend(getattr(overlay, "warnings", ()))
            graph.facts["capabilities"] = getattr(overlay, "capabilities", None)
            graph.facts["asked_device"] = getattr(overlay, "asked_device", False)
        ended = len(graph.events)
        del runner, model
    del graph.events[ended:]
    _order_deaths(graph)
    return graph


def _decided_by_chance(drawn: list[str]) -> list[tuple[str, str]]:
    """What is to be said of a step that draws numbers on the host: they may drop a layer, or only mix two samples."""
    if not drawn:
        return []
    return [
        (
            "host-random",
            f"the step draws random numbers on the host ({', '.join(drawn)}): if it decides by them, as where layers are dropped, the "
            "answer is for what was drawn here, from seed 0; a step that drops less takes more",
        )
    ]


def _order_deaths(graph: StepGraph) -> None:
    """Put storages that die together in the order of their birth.

    What lies in a hash table (autocast's cache of low-precision weights) dies in an order that two traces need not
    share. No allocator tells the orders of consecutive frees apart. A phase keeps what dies in it.
    """
    events, begin = graph.events, 0
    starts = {start for _, start in graph.phases}
    while begin < len(events):
        end = begin + 1
        if not events[begin].is_alloc:
            while (
                end < len(events)
                and end not in starts
                and not events[end].is_alloc
                and events[end].op == events[begin].op
            ):
                end += 1
            events[begin:end] = sorted(events[begin:end], key=lambda e: e.storage)
        begin = end


def _converted(job: TrainingJob, model: nn.Module, recorder: Recorder, recorded: bool) -> nn.Module:
    if not job.channels_last:
        return model
    recorder.recording = recorded
    try:
        with recorder:
            return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
    finally:
        recorder.recording = True


def _runner(job: TrainingJob, model: nn.Module, recorder: Recorder, mode: Fakes, overlay: Any) -> StepRunner:
    params = [p for p in model.parameters() if p.requires_grad]
    if job.mode == "train" and not params and job.step is None:
        raise JobError(
            "the model has no trainable parameter",
            got=f"{sum(1 for _ in model.parameters())} parameters, all frozen",
            where="TrainingJob.model",
            hint='unfreeze some, or use mode="inference"',
        )
    recorder.mark("optimizer")
    make = optimizer_maker(job.optimizer) if job.mode == "train" else None
    with mode, recorder:
        optimizer = make(params) if make is not None else None
        if isinstance(optimizer, torch.optim.Optimizer):
            recorder.graph.facts["optimizer"] = type(optimizer).__name__
        if optimizer is not None and overlay is not None:
            overlay.prepare_optimizer(optimizer)
        device_type = "cpu" if overlay is None else overlay.autocast_device_type
        return StepRunner(
            job, model, optimizer, _batches(job), recorder, mode, device_type=device_type
        )


def _batches(job: TrainingJob) -> BatchMaker:
    if job.mode == "inference" and job.generation is not None:
        return prompts(job, job.generation)
    return batch_maker(job.batch, job.batch_dim)


def _collect_cycles(graph: StepGraph, recorder: Recorder, index: int) -> None:
    """Free what only reference cycles keep: in a real run Python would do so at a time nobody knows."""
    before = len(graph.events)
    gc.collect()
    gc.freeze()  # nor what this step left
    freed = sum(e.size_bytes for e in graph.events[before:] if not e.is_alloc)
    if freed >= 1 << 20:
        text = (
            f"reference cycles in the user's code keep {freed} bytes alive until Python's garbage collector runs; "
            "counted until the end of each step"
        )
        if ("reference-cycles", text) not in graph.warnings:
            graph.warnings.append(("reference-cycles", text))


def _counts(model: nn.Module) -> dict[str, int]:
    params = list(model.parameters())
    return {
        "parameter_count": sum(p.numel() for p in params),
        "trainable_parameter_count": sum(p.numel() for p in params if p.requires_grad),
        "parameter_bytes": sum(p.numel() * p.element_size() for p in params),
        "trainable_parameter_bytes": sum(p.numel() * p.element_size() for p in params if p.requires_grad),
        "buffer_bytes": sum(b.numel() * b.element_size() for b in model.buffers()),
    }


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the random state, and hold Python's garbage collector so that lifetimes repeat exactly.

    Every trace draws the same numbers: Python gives forked processes others, and layers that are dropped by them must be the
    same at each batch size, and in each answer to the same question.
    """
    gc.collect()
    with not_collected(), heap_set_aside(), random_kept(seed=0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def warm_up(*, own_process: bool = False) -> None:
    """Load what torch imports at the first ops on fake tensors, once, before processes are forked.

    With `own_process`, one that nothing but the estimator runs in, also what a trace imports of torch's compiler.
    """
    if own_process:
        leave_compiler_out()
    with not_collected():
        for name in (*_IMPORTED_LATE, *(_OF_THE_COMPILER if own_process else ())):
            with contextlib.suppress(ImportError):  # torch's own business: it may do without in another version
                importlib.import_module(name)


_IMPORTED_LATE = (
    "torch.fx.experimental.symbolic_shapes",
    "torch.nested._internal.nested_tensor",
    "torch.distributed.tensor",
    "torch._numpy",
    "torch.profiler._cupti_monitor",
    "numpy.fft",
    "numpy.random",
)
"""Source: measured: what `sys.modules` has after a trace and had not before, torch 2.13, but for `torch._dynamo`."""
_OF_THE_COMPILER = (
    "torch._dynamo.source",
    "torch._dynamo.utils",
    "torch._functorch.config",
    "torch.utils._triton",
)
"""Source: as above. They stand without `torch._dynamo` itself where `leave_compiler_out` put another in its place, which
is not for the user's own process."""
