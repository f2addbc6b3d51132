"""The stages in order: job and device in, estimate out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from estimator.beside import fvcore_beside, nothing
from estimator.by_batch import largest_traced, with_traces_elsewhere
from estimator.device import DeviceProfile, Target
from estimator.errors import CannotPredictError, DataDependentError, FitError, JobError, MissingKernelError, TraceError
from estimator.evaluate import Evaluator
from estimator.fit import MemoryModel, compare, first_step_vouches, is_rising_line, residual, unlike_steps
from estimator.heap import heap_set_aside
from estimator.host import host_of_job
from estimator.job import TrainingJob
from estimator.one_sample import with_one_sample
from estimator.result import Estimate
from estimator.solve import Solution
from estimator.stages import LONG_STEPS, Stages
from estimator.traces import TIME_LIMIT_SECONDS, Clock, Traces

if TYPE_CHECKING:
    from estimator.graph import StepGraph

CALIBRATION_SIZES = ((4, 8), (8, 16), (1, 2))
"""Pairs of batch sizes to trace, in order of preference: even and above one, as a batch of one is often special."""
UNLIMITED_PROBE_SIZE = 1 << 10
"""Where lines that seem to have no end are held against a trace: far enough for a tensor of batch by batch to show."""
ROUNDS = 4
"""Most traces at a solved batch size before each size is traced by itself."""


def estimate(
    job: TrainingJob,
    device: DeviceProfile | str | None = None,
    *,
    torch_version: str | None = None,
    memory: str | int | None = None,
    profiles: Path | None = None,
    allow_real_run: bool = False,
    isolate: bool | None = None,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
    alloc_conf: str | None = None,
    progress: Callable[[str], None] | None = None,
    traces: Traces | None = None,
    cross_check: bool = True,
) -> Estimate:
    """Predict the memory of a job on a device and solve for the largest batch that fits, without a trial run.

    Args:
        job: what is trained.
        device: a profile, the name of one, or None for this machine.
        torch_version: of the torch that will run the job; the installed one by default.
        memory: free bytes of the device instead of the profile's, such as "24GiB".
        profiles: a file or folder of further device profiles.
        allow_real_run: where the step cannot be traced, run it on tiny real batches on this machine's CPU.
        isolate: trace in child processes, so that a crash is an error and not the end; default where the
            system can fork.
        time_limit_seconds: for the traces together.
        alloc_conf: `PYTORCH_ALLOC_CONF` of the run, instead of the job's.
        progress: told what is being done.
        traces: those of the job so far, and where new ones are kept: hand the same to each device of a plan. They bring
            their own `isolate` and `time_limit_seconds`.
        cross_check: count with fvcore too, and warn where its counts are others.

    Raises:
        EstimatorError: see `estimator.errors`; each says what is wrong, where and what to do.
    """
    import torch

    from estimator.devices import resolve_device

    say = progress or (lambda text: None)
    clock = Clock()
    profile = resolve_device(device, memory, profiles)
    target = Target(
        device=profile,
        torch_version=torch_version or torch.__version__.split("+")[0],
        cudnn_benchmark=job.cudnn_benchmark,
        deterministic=job.deterministic,
        environment=job.environment,
    )
    if traces is None:
        traces = Traces(job, isolate=isolate, time_limit_seconds=time_limit_seconds)
    run = _Run(job, target, clock, say, traces, alloc_conf if alloc_conf is not None else job.alloc_conf, cross_check)
    with heap_set_aside():
        try:
            answer = run.answer()
        except (DataDependentError, MissingKernelError) as error:
            if not allow_real_run:
                raise
            run.use_real_run(error)
            answer = run.answer()
        host = host_of_job(answer, job)
        return answer if host is None else answer.with_host(host)


class _Run(Stages):
    """One estimate under way: which traces to ask for, until model and trace agree at the solved batch."""

    confirmed_at: int | None = None
    """Batch size of the trace that the model agreed with."""
    nearly: int | None = None
    """The largest batch by a model that turned out to be off there."""
    local = False
    """Whether the model holds around the largest batch alone."""

    def use_real_run(self, error: CannotPredictError) -> None:
        """Trace from now on with values read in a tiny real run on this machine's CPU, and say so in the answer."""
        self.real_run = True
        self.say("running a few samples for real on the CPU")
        self.warn(
            "real-run",
            f"{error.what} ({error.got}; {error.where}): values were taken from a real run on the CPU with a few "
            "samples, so the answer holds only as far as other data lead the same way",
        )

    def answer(self) -> Estimate:
        from estimator.assemble import assemble

        asked = self.cross_check and self.traces.isolated
        with fvcore_beside(self.job, CALIBRATION_SIZES[0][0], self.clock) if asked else nullcontext(nothing) as fvcore:
            try:
                graphs = (None if self.real_run else self.traces.bent(self.target)) or self.calibrate()
                evaluator, solution = self.verified(graphs)
            except FitError as error:
                evaluator, solution = self.by_batch(error)
            if self.batches_as_one:
                self.warn(
                    "batch-as-one",
                    "the batch is made sample by sample on this CPU: its tensors are counted, what kernels of its making take "
                    f"besides is not; held against a trace up to batch {UNLIMITED_PROBE_SIZE}",
                )
            answer = assemble(
                self.job, self.target, evaluator, solution,
                lambda which: solution if solution.by_batch else self.solve(evaluator, which),
                self.warnings, self.clock.seconds, fvcore(),
            )  # fmt: skip
        answer._confirmed_at = self.confirmed_at
        of: Callable[[int], Evaluator] | None = None
        if self.local:
            of = with_traces_elsewhere(evaluator, lambda: self.evaluator_by_batch(CALIBRATION_SIZES[0]))
        elif not (self.real_run or solution.by_batch or 1 in (*evaluator.model.calibration_sizes, self.confirmed_at)):
            of = with_one_sample(
                evaluator,
                lambda: self.trace(1, steps=(LONG_STEPS,))[0],
                lambda graph: self.evaluator(self.fitted([graph, graph])),
            )
        if of is not None:
            answer._at, answer._device_at = lambda n: of(n).at(n), lambda n: of(n).device_at(n)
            answer._ledger_at = lambda n: of(n).ledger(n)
        return answer

    def calibrate(self) -> list[StepGraph]:
        """Trace the first pair of batch sizes whose traces tell the same program."""
        from estimator.trace.batches import check_scales

        problem: FitError | None = None
        lengths: dict[int, int] = {}
        for pair in CALIBRATION_SIZES:
            graphs = self.trace(*pair, steps=(LONG_STEPS, self.short_steps))
            check_scales(graphs[0].facts["batch_shapes"], graphs[1].facts["batch_shapes"], pair)
            if unlike_steps(graphs[0]):
                graphs[1:] = self.trace(pair[1], steps=(LONG_STEPS,))
            parting = compare(*graphs)
            if parting.in_batch and self.target.device.kind == "cpu" and not self.batches_as_one:
                self.traces.batches_as_one = True
                graphs = [self.traces.with_batches_as_one(graph) for graph in graphs]
                parting = compare(*graphs)
            if not parting:
                if problem is not None:
                    self.warn(
                        "calibrated-again", f"{problem.got}; calibrated at batch sizes {pair[0]} and {pair[1]} instead"
                    )
                return graphs
            problem = problem or FitError(
                "the step is not the same program at two batch sizes",
                got=parting.text,
                hint=parting.hint,
            )
            lengths |= {graph.batch_size: graph.step_length for graph in graphs}
            if is_rising_line(lengths):  # an op or more for each sample: no other pair will be alike
                break
        assert problem is not None
        raise problem

    def by_batch(self, error: FitError) -> tuple[Evaluator, Solution]:
        """Solve with a trace at each batch size that is asked about, where no two tell the same program."""
        try:
            evaluator = self.evaluator_by_batch(CALIBRATION_SIZES[0])
            solution = largest_traced(evaluator, self.nearly)
        except FitError:  # not even one batch size can be told
            raise error from None
        self.confirmed_at = max(1, solution.largest)
        evaluator.model = evaluator.model_at(self.confirmed_at)
        self.warn(
            "each-batch-traced",
            f"{error.what} ({error.got}): every size was traced by itself ({', '.join(map(str, evaluator.traced))}); of sizes below "
            "the largest that fits, and of the low end of the interval, none were looked at besides",
        )
        return evaluator, solution

    def _confirming(self, n: int, evaluator: Evaluator, solution: Solution) -> StepGraph:
        """A trace that shows whether the model is right at `n`; beside it the replays that the answer then needs."""
        from estimator.assemble import replayed

        model = evaluator.model
        fitted_again = self.traces.bends and len(model.calibration_sizes) == 2  # to this trace, which so has all steps
        short = first_step_vouches(model) and not self.job.goes_on_after_steps and not fitted_again
        steps = 1 if short else self.short_steps
        seen = self.traces.beyond(self.target, n, steps)
        if seen is not None and self.batches_as_one:
            seen = self.traces.with_batches_as_one(seen)
        if seen is not None and (
            seen.batch_size == n or (residual(model, seen) == 0 and seen.batch_size not in model.calibration_sizes)
        ):
            return seen  # a larger batch vouches for this one
        return self.trace(
            n, steps=(steps,), meanwhile=lambda: replayed(evaluator, solution, partial(self.solve, evaluator))
        )[0]

    def verified(self, graphs: list[StepGraph]) -> tuple[Evaluator, Solution]:
        """Solve, trace again at the solved batch, and refit until the model and the trace agree there."""
        model = self.fitted(graphs)
        if len(graphs) == 3:
            self._warn_of_bends(model)
        evaluator = self.evaluator(model)
        solution = self.solve(evaluator, "high")
        for _ in range(ROUNDS):
            n = UNLIMITED_PROBE_SIZE if solution.unlimited else max(1, solution.largest)
            if self.batches_as_one:  # each sample takes the time of its ops
                n = min(n, UNLIMITED_PROBE_SIZE)
            if self.real_run or n in evaluator.model.calibration_sizes:
                return evaluator, solution
            try:
                seen = self._confirming(n, evaluator, solution)
            except (DataDependentError, MissingKernelError):  # which a real run may answer, where one is allowed
                raise
            except (TraceError, JobError) as error:  # a queue that is shorter than the batch, data that have fewer samples
                self.warn(
                    "fails-at-largest",
                    f"at batch {n} the step itself fails ({error.what}: {error.got}; {error.where}): what memory allows was followed "
                    f"from batch sizes {' and '.join(map(str, evaluator.model.calibration_sizes))} and is not confirmed",
                )
                return evaluator, solution
            if residual(evaluator.model, seen) == 0:
                self.confirmed_at = seen.batch_size
                return evaluator, solution
            self.nearly = None if solution.unlimited else n
            try:
                graphs = self.refit(graphs, n, evaluator.model)
            except FitError as error:
                if n > 1:
                    raise
                # Many an op takes another way for one sample, and nothing lies below to follow it from.
                self.warn(
                    "batch-of-one",
                    f"the step is another program at batch 1 ({error.got}): its bytes are those that larger batches "
                    "lead to, and were not confirmed",
                )
                return evaluator, solution
            evaluator = self.evaluator(self.fitted(graphs))
            solution = self.solve(evaluator, "high")
        raise FitError(
            "no line through two batch sizes holds at the largest", got=f"off at batch {solution.largest} after {ROUNDS} traces"
        )

    def refit(self, graphs: list[StepGraph], n: int, model: MemoryModel) -> list[StepGraph]:
        """Choose the traces of the next model: a parabola where sizes bend, a local line where the program changes."""
        seen = self.trace(n)[0]
        self._check_grows([*graphs[:2], seen])
        if residual(model, seen) is not None:
            bent = [*graphs, seen]
            if len(graphs) > 2 or not self._is_square(bent):
                raise FitError(
                    "bytes follow the batch size neither by a line nor by a square, as where samples have different lengths",
                    got=f"batch sizes {', '.join(str(g.batch_size) for g in bent)}",
                )
            self._warn_of_bends(self.fitted(bent))
            self.traces.keep_bent(self.target, bent)
            return bent
        seen, other = self.trace(n, n + 1 if n < 4 else n - max(1, n // 64), steps=(LONG_STEPS, LONG_STEPS))
        pair = sorted([seen, other], key=lambda g: g.batch_size)
        if compare(*pair):
            raise FitError("the step changes with every batch size", got=compare(*pair).text)
        self.local = True
        self.warn(
            "local-fit",
            f"the step is another program at batch {n} than at {graphs[0].batch_size}; bytes are followed around "
            f"batch {n} only",
        )
        return pair

    def _is_square(self, graphs: list[StepGraph]) -> bool:
        """Whether the square through three traces meets a fourth, halfway: through three points there is always one."""
        small, n = graphs[1].batch_size, graphs[2].batch_size
        fourth = self.trace(n // 2 if n // 2 > small else n + 1)[0]
        return residual(self.fitted(graphs), fourth) == 0

    def _check_grows(self, graphs: list[StepGraph]) -> None:
        """Raise where a batch that is no line through three sizes is not in proportion to the number of samples."""
        from estimator.trace.batches import check_grows, on_a_line

        if not on_a_line([graph.facts["batch_shapes"] for graph in graphs], [graph.batch_size for graph in graphs]):
            n = graphs[-1].batch_size
            once, twice = self.trace(n, 2 * n)
            check_grows(once.facts["batch_shapes"], twice.facts["batch_shapes"], n)

    def _warn_of_bends(self, model: MemoryModel) -> None:
        bent = [c for c in model.curves if c.degree == 2]
        self.warn(
            "not-linear",
            f"{len(bent)} storages do not grow linearly with the batch (batch-by-batch tensors?); fitted with "
            f"a square term through batch sizes {model.calibration_sizes}",
        )
