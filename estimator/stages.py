"""The stages of one estimate, each asked by itself: traces, the model fitted to them, an evaluator on it, a solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from estimator.by_batch import EvaluatorByBatch
from estimator.device import Target
from estimator.evaluate import Evaluator
from estimator.fit import MemoryModel, fit
from estimator.job import TrainingJob
from estimator.replays import Replays, replays_of
from estimator.result import Warning
from estimator.solve import Solution, largest_batch
from estimator.traces import Clock, Traces

if TYPE_CHECKING:
    from estimator.graph import Op, StepGraph

LONG_STEPS, SHORT_STEPS = 3, 2
"""Steps of the first trace, whose last two show that steps repeat, and of the others: state appears in the first
step, and the second, which frees what the first left, is where the peak usually lies."""
TOTAL_STEPS = 4
"""Steps of the replayed program. The pools settle in the first two or three; recorded runs have four."""


class Stages:
    """What one estimate asks of each stage, on one target, and what it has warned of so far."""

    def __init__(
        self, job: TrainingJob, target: Target, clock: Clock, say: Callable[[str], None], traces: Traces, conf: str,
        cross_check: bool,
    ) -> None:  # fmt: skip
        self.job, self.target, self.clock, self.say = job, target, clock, say
        self.traces, self.conf, self.cross_check = traces, conf, cross_check
        self._solved: dict[str, Solution] = {}
        self._former: dict[str, Solution] = {}
        """Of the model before the last refit."""
        self.real_run = False
        self.warnings: list[Warning] = [Warning(code="job", message=note) for note in job.notes]
        if "kind" in target.device.sources:
            self.warn("no-gpu", target.device.sources["kind"])

    @property
    def batches_as_one(self) -> bool:
        """Whether the making of a batch, which goes sample by sample, is told as one op: on a CPU, where it counts."""
        return self.traces.batches_as_one and self.target.device.kind == "cpu"

    @property
    def short_steps(self) -> int:
        """Steps of the traces after the first; as many as of the first where something follows the steps."""
        return LONG_STEPS if self.job.goes_on_after_steps else SHORT_STEPS

    def trace(
        self, *sizes: int, steps: Sequence[int] = (), meanwhile: Callable[[], object] | None = None
    ) -> list[StepGraph]:
        """The traces at several batch sizes; of two steps each unless told otherwise."""
        counts = steps or [self.short_steps] * len(sizes)
        graphs = self.traces.at(
            self.target, sizes, counts, real_run=self.real_run, say=self.say, stage=self.clock.stage,
            meanwhile=meanwhile,
        )  # fmt: skip
        return [self.traces.with_batches_as_one(graph) for graph in graphs] if self.batches_as_one else graphs

    def fitted(self, graphs: list[StepGraph]) -> MemoryModel:
        """The model through traces, fitted once for all devices of a kind; scratch is the target's own."""
        from estimator import scratch

        def scratch_of(op: Op) -> Any:
            return scratch.scratch_of(op, self.target)

        def has_scratch(op: Op) -> bool:
            return scratch.has_rule(op.name, self.target)

        key = (self.target.device.kind, *map(id, graphs))
        known = self.traces.models.get(key)
        with self.clock.stage("fit"):
            if known is not None:
                return known.on_device(scratch_of)
            self.traces.models[key] = fit(graphs, scratch_of, has_scratch, TOTAL_STEPS, self._result_order)
        return self.traces.models[key]

    def _result_order(self, op: Op) -> tuple[int, ...] | None:
        from estimator.scratch.order import result_order

        return result_order(op, self.target.device.kind)

    def evaluator(self, model: MemoryModel) -> Evaluator:
        """What a model comes to on the target."""
        context, replays, nccl = self._surroundings()
        return Evaluator(model, self.target.device, context, replays, nccl=nccl)

    def evaluator_by_batch(self, sizes: tuple[int, int]) -> EvaluatorByBatch:
        """What the step comes to on the target, traced at each batch size that is asked about, `sizes` first."""

        @cache
        def model_of(n: int) -> MemoryModel:
            graph = self.trace(n, steps=(LONG_STEPS,))[0]
            return self.fitted([graph, graph])

        self.trace(*sizes, steps=(LONG_STEPS, LONG_STEPS))  # both at once
        context, replays, nccl = self._surroundings()
        return EvaluatorByBatch(model_of, sizes, self.target.device, context, replays, nccl=nccl)

    def _surroundings(self) -> tuple[tuple[int, int, int], Replays, tuple[int, int, int]]:
        """Bytes of the context, the allocator's replays, bytes of NCCL; what was solved before is of an older model."""
        from estimator.devices.context import context_interval
        from estimator.devices.nccl import nccl_interval

        self._former |= self._solved
        self._solved.clear()
        loading = self.job.environment.get("CUDA_MODULE_LOADING", "LAZY")
        context = context_interval(self.target.device, module_loading=loading)  # type: ignore[arg-type]
        group = self.job.process_group if self.target.device.kind == "cuda" else None
        return context, replays_of(self.target.device, self.conf), nccl_interval(group, self.job.environment)

    def solve(self, evaluator: Evaluator, which: str) -> Solution:
        """The largest batch at the low, likely or high end; solved once for each evaluator."""
        found = self._solved.get(which)
        if found is None:
            former = self._former.get(which)
            with self.clock.stage("solve"):
                found = self._solved[which] = largest_batch(
                    lambda n: evaluator.fits(n, which),
                    lambda n: evaluator.unlimited_peak_reserved_bytes(n, which),
                    evaluator.limit_bytes(which),
                    evaluator.model.calibration_sizes[0],
                    lambda n: evaluator.may_fit(n, which),
                    0 if former is None or former.unlimited else former.largest,
                )
        return found

    def warn(self, code: str, message: str) -> None:
        """Add a warning to the answer."""
        self.warnings.append(Warning(code=code, message=message))
