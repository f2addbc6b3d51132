"""Traces of one job, each made once and kept for every device on which torch would do the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from estimator.device import Target
from estimator.errors import EstimatorError, TraceDiedError
from estimator.heap import heap_set_aside
from estimator.job import TrainingJob

if TYPE_CHECKING:
    from estimator.fit import MemoryModel
    from estimator.graph import StepGraph

TIME_LIMIT_SECONDS = 600.0
Stage = Callable[[str], AbstractContextManager[Any]]


class Clock:
    """Wall time by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time until the context is left to a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - begun, 4)


class Traces:
    """What has been traced of a job. Ask it for a trace on a target: one that is kept is given where it holds there.

    Args:
        job: what is trained; its `alloc_conf` may be another when it is solved, all else is in the traces.
        isolate: trace in child processes, so that a crash is an error and not the end; default where the system can
            fork.
        time_limit_seconds: for the traces of one call.
        larger_vouches: a trace that confirms the model at a batch size confirms it for smaller ones too: of many
            devices only the largest solved batch need be traced.
    """

    def __init__(
        self,
        job: TrainingJob,
        *,
        isolate: bool | None = None,
        time_limit_seconds: float = TIME_LIMIT_SECONDS,
        larger_vouches: bool = False,
    ) -> None:
        self.job, self.larger_vouches = job, larger_vouches
        self._isolate, self._limit = isolate, time_limit_seconds
        self._kept: list[tuple[Target, int, bool, StepGraph]] = []
        self.models: dict[tuple[Any, ...], MemoryModel] = {}
        """By kind of device and the identities of the traces that they were fitted to, all of which are kept here."""
        self.batches_as_one = False
        """Whether batches were found to be made sample by sample (`with_batches_as_one`)."""
        self._as_one: dict[int, StepGraph] = {}
        self._bent: list[tuple[Target, list[StepGraph]]] = []
        self._failed: list[tuple[Target, tuple[Any, ...], EstimatorError]] = []

    @property
    def isolated(self) -> bool:
        """Whether traces run in processes of their own."""
        from estimator.trace.isolate import can_isolate

        return can_isolate() if self._isolate is None else self._isolate

    def at(
        self,
        target: Target,
        sizes: Sequence[int],
        steps: Sequence[int],
        *,
        real_run: bool = False,
        say: Callable[[str], None] = lambda text: None,
        stage: Stage = lambda name: nullcontext(),
        meanwhile: Callable[[], object] | None = None,
    ) -> list[StepGraph]:
        """Give the traces at several batch sizes, each of so many steps; those to be made are made at once.

        With `real_run` values are read in a tiny real run on this machine's CPU. `meanwhile` is work that may be done
        here while other processes trace; it is left out where none do.

        Raises:
            EstimatorError: see `estimator.trace.trace` and `estimator.trace.isolate.run_isolated`. Asked again for a
                card of the same compute capability, a trace that failed fails at once.
        """
        asked = (tuple(sizes), tuple(steps), real_run)
        for failed_on, what, error in self._failed:
            if what == asked and _alike(failed_on) == _alike(target):
                raise error
        found = [self._find(target, size, count, real_run) for size, count in zip(sizes, steps, strict=True)]
        missing = [index for index, graph in enumerate(found) if graph is None]
        if missing:
            say(f"tracing batch {' and '.join(str(sizes[i]) for i in missing)}")
            try:
                with stage("trace"):
                    made = self._make(target, [(sizes[i], steps[i]) for i in missing], real_run, meanwhile)
            except TraceDiedError:  # it may have been the machine's fault
                raise
            except EstimatorError as error:
                self._failed.append((target, asked, error))
                raise
            for index, graph in zip(missing, made, strict=True):
                self._kept.append((target, steps[index], real_run, graph))
                found[index] = graph
        return [graph for graph in found if graph is not None]

    def with_batches_as_one(self, graph: StepGraph) -> StepGraph:
        """One of the traces kept here with each batch made by one op; the same each time (`estimator.fit.as_one`)."""
        from estimator.fit import as_one

        if id(graph) not in self._as_one:
            self._as_one[id(graph)] = as_one(graph)
        return self._as_one[id(graph)]

    def beyond(self, target: Target, size: int, steps: int) -> StepGraph | None:
        """The trace that is kept of the smallest batch from `size` on, if a larger batch may vouch for it."""
        held = [
            graph
            for made_for, count, real, graph in self._kept
            if graph.batch_size >= size and count == steps and not real and holds(graph, made_for, target)
        ]
        return min(held, key=lambda graph: graph.batch_size, default=None) if self.larger_vouches else None

    def keep_bent(self, target: Target, graphs: Sequence[StepGraph]) -> None:
        """Keep three traces through which a square term had to be fitted: on the next device the fit begins there."""
        self._bent.append((target, list(graphs)))

    @property
    def bends(self) -> bool:
        """Whether a square term had to be fitted on any device so far: on others one will be needed too, most likely."""
        return bool(self._bent)

    def bent(self, target: Target) -> list[StepGraph] | None:
        """Such traces, where they hold on the target."""
        return next((gs for made_for, gs in self._bent if all(holds(g, made_for, target) for g in gs)), None)

    def _find(self, target: Target, size: int, steps: int, real_run: bool) -> StepGraph | None:
        for made_for, count, real, graph in self._kept:
            if (graph.batch_size, count, real) == (size, steps, real_run) and holds(graph, made_for, target):
                return graph
        return None

    def _make(
        self,
        target: Target,
        wanted: Sequence[tuple[int, int]],
        real_run: bool,
        meanwhile: Callable[[], object] | None,
    ) -> list[StepGraph]:
        from estimator.trace import trace, warm_up
        from estimator.trace.isolate import run_isolated

        semantics = semantics_of(target)
        tasks = [partial(trace, self.job, target, size, semantics, steps, real_run) for size, steps in wanted]
        if self.isolated:
            warm_up()
            if target.device.kind == "cuda":
                from estimator.semantics.cuda import prepare

                prepare()
            with heap_set_aside():
                return run_isolated(tasks, self._limit, meanwhile)
        return [task() for task in tasks]


def holds(graph: StepGraph, made_for: Target, target: Target) -> bool:
    """Whether a trace made for one target is what another would give.

    It is if torch's release and settings are the same and nothing that ran asked for more of the device than both
    answer alike: decisions by compute capability note for which they are the same, and whether the job's own code
    asked for a card's name, size or properties.
    """
    if made_for == target:
        return True
    if _software(made_for) != _software(target) or graph.facts.get("asked_device", False):
        return False
    capabilities = graph.facts.get("capabilities")
    capability = target.device.compute_capability
    return capability == made_for.device.compute_capability or capabilities is None or capability in capabilities


def _software(target: Target) -> tuple[Any, ...]:
    return target.device.kind, target.torch_release, target.cudnn_benchmark, target.deterministic


def _alike(target: Target) -> tuple[Any, ...]:
    return (*_software(target), target.device.compute_capability)


def semantics_of(target: Target) -> Any:
    """The decisions of a kind of device, to be laid over a trace."""
    if target.device.kind == "cpu":
        from estimator.semantics.cpu import cpu_semantics

        return cpu_semantics
    from estimator.semantics.cuda import cuda_semantics

    return cuda_semantics
