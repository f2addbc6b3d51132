"""Try every change on a job, rank them, put the best together: `advise(job, device, global_batch=256)`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from estimator.advice.changes import CHANGES, Change, Seen
from estimator.advice.records import Advice, Outcome, Refusal
from estimator.device import DeviceProfile
from estimator.errors import EstimatorError, UsageError
from estimator.job import TrainingJob
from estimator.result import Estimate
from estimator.traces import TIME_LIMIT_SECONDS

NAMES = (*(change.name for change in CHANGES), "accumulation")
_TRACED_MICRO_BATCHES = 2


def advise(
    job: TrainingJob,
    device: DeviceProfile | str | None = None,
    *,
    global_batch: int | None = None,
    changes: Sequence[str] | None = None,
    torch_version: str | None = None,
    memory: str | int | None = None,
    profiles: Path | None = None,
    allow_real_run: bool = False,
    isolate: bool | None = None,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
    progress: Callable[[str], None] | None = None,
) -> Advice:
    """Find which changes to a job buy a larger batch on a device, and at what cost in flops.

    The job is traced and solved once as it is, and once more with each change made to it; nothing is scaled by a
    percentage. The user's model is not touched.

    Args:
        job: what is trained.
        device: a profile, the name of one, or None for this machine.
        global_batch: samples of one optimizer step that are wanted; gradients are accumulated where they do not fit at
            once.
        changes: names of `NAMES` to try; all by default.
        torch_version, memory, profiles, allow_real_run, isolate, progress: as for `estimator.estimate`.
        time_limit_seconds: for the traces of one change.

    Raises:
        UsageError: a name is no change's, or `global_batch` is less than the job's `accumulation_steps`.
        EstimatorError: the job as it is cannot be predicted; a change that cannot is among `Advice.refused`.
    """
    names = _checked(changes, global_batch, job)
    say = progress or (lambda text: None)
    seconds: dict[str, float] = {}

    def solved(name: str, changed: TrainingJob) -> Estimate:
        from estimator.pipeline import estimate

        begun = time.perf_counter()
        say(name)
        try:
            return estimate(
                changed, device, torch_version=torch_version, memory=memory, profiles=profiles,
                allow_real_run=allow_real_run, isolate=isolate, time_limit_seconds=time_limit_seconds,
                cross_check=False,
            )  # fmt: skip
        finally:
            seconds[name] = round(time.perf_counter() - begun, 3)

    return _Advisor(job, names, global_batch, solved).answer(seconds)


def _checked(changes: Sequence[str] | None, global_batch: int | None, job: TrainingJob) -> Sequence[str]:
    names = NAMES if changes is None else tuple(changes)
    if unknown := [name for name in names if name not in NAMES]:
        raise UsageError("no change has that name", got=", ".join(unknown), allowed=", ".join(NAMES))
    if global_batch is not None and global_batch < job.accumulation_steps:
        raise UsageError(
            "the global batch has fewer samples than the job has micro-batches",
            got=str(global_batch),
            allowed=f"{job.accumulation_steps} or more",
        )
    return names


class _Advisor:
    def __init__(
        self, job: TrainingJob, names: Sequence[str], global_batch: int | None,
        solved: Callable[[str, TrainingJob], Estimate],
    ) -> None:  # fmt: skip
        self._job, self._names, self._global, self._solved = job, names, global_batch, solved
        self._refused: list[Refusal] = []

    def answer(self, seconds: dict[str, float]) -> Advice:
        base = self._solved("as it is", self._job)
        self._at = max(1, base.max_batch_size)
        self._base = self._outcome("as-it-is", "as it is", self._job, base)
        self._seen = Seen(base.model.graph, base.device)
        tried = [(c, o) for c in CHANGES if c.name in self._names and (o := self._try(c)) is not None]
        found = [outcome for _, outcome in tried]
        if "accumulation" in self._names and (more := self._accumulated(self._job, self._base)) is not None:
            found.append(more)
        return Advice(
            job=self._job.name,
            device=base.device.name,
            global_batch=self._global,
            compared_at=self._at,
            base=self._base,
            changes=tuple(sorted(found, key=_rank)),
            together=self._together(tried),
            refused=tuple(self._refused),
            seconds=seconds,
        )

    def _try(self, change: Change) -> Outcome | None:
        try:
            changed = change.apply(self._job, self._seen)
            answer = self._solved(change.name, changed)
        except EstimatorError as error:
            self._refuse(change.name, change.title, error)
            return None
        return self._outcome(change.name, change.title, changed, answer, how=change.how, alters=change.alters)

    def _refuse(self, name: str, title: str, error: EstimatorError) -> None:
        said = " ".join(filter(None, (error.what, f"({error.got})" if error.got else "")))
        reason = said if isinstance(error, UsageError) else f"cannot be predicted: {said}"
        self._refused.append(Refusal(name=name, title=title, reason=reason))

    def _outcome(self, name: str, title: str, job: TrainingJob, answer: Estimate, **more: Any) -> Outcome:
        graph = answer.model.graph
        micro = job.accumulation_steps
        base = getattr(self, "_base", None)
        flops = (answer.counts.flops_per_sample or 0) // micro
        device_bytes = answer.at(self._at).device_bytes
        effective = answer.max_batch_size * micro
        return Outcome(
            name=name,
            title=title,
            max_batch_size=answer.max_batch_size,
            accumulation_steps=micro,
            effective_batch_size=effective,
            gained_batch_size=effective - base.effective_batch_size if base else 0,
            device_bytes=device_bytes,
            saved_bytes=base.device_bytes - device_bytes if base else 0,
            flops_per_sample=flops,
            flops_ratio=(flops / base.flops_per_sample if base else 1.0) if flops else None,
            op_count=sum(op.phase.startswith("step1.") for op in graph.ops),
            warnings=tuple(dict.fromkeys(w.code for w in answer.warnings)),
            **more,
        )

    # ------------------------------------------------------------ accumulation

    def _accumulated(self, job: TrainingJob, alone: Outcome, name: str = "accumulation") -> Outcome | None:
        """The outcome with the global batch in as few micro-batches as fit; None where it is not wanted or not had."""
        title = "gradient accumulation"
        reason = None
        if self._global is None:
            reason = "no global batch was given"
        elif job.mode != "train" or job.step is not None:
            reason = "the job's own step() decides about it" if job.step is not None else "inference has no gradients"
        elif alone.effective_batch_size >= self._global:
            reason = f"the global batch of {self._global} fits as the job is"
        if reason is not None or self._global is None:
            self._refused.append(Refusal(name=name, title=title, reason=reason or ""))
            return None
        steps = max(_TRACED_MICRO_BATCHES, job.accumulation_steps)
        changed = job.with_(accumulation_steps=steps)
        try:
            answer = self._solved(name, changed)
        except EstimatorError as error:
            self._refuse(name, title, error)
            return None
        if answer.max_batch_size == 0:
            self._refused.append(Refusal(name=name, title=title, reason="not even a micro-batch of one sample fits"))
            return None
        count = micro_batches(self._global, answer.max_batch_size, steps)
        made = self._outcome(
            name, title, changed, answer, how=f"loss / {count}, optimizer.step() every {count} batches"
        )
        note = f"{count} micro-batches of {-(-self._global // count)}"
        if count > steps:
            note += f"; {steps} were traced, further ones repeat the last"
        return made.model_copy(
            update={
                "accumulation_steps": count,
                "effective_batch_size": self._global,
                "gained_batch_size": self._global - self._base.effective_batch_size,
                "op_count": made.op_count * count // steps,
                "alters": "batch statistics" if _has_batch_statistics(answer) else "",
                "note": note,
            }
        )

    # ------------------------------------------------------------ together

    def _together(self, tried: Iterable[tuple[Change, Outcome]]) -> Outcome | None:
        """The best of each kind at once, where there are at least two that buy something."""
        best: dict[str, Change] = {}
        for change, outcome in sorted(tried, key=lambda pair: _rank(pair[1])):
            buys = outcome.saved_bytes > 0 or outcome.gained_batch_size > 0
            if buys and change.alters != "what is trained":
                best.setdefault(change.kind, change)
        if len(best) < 2:
            return None
        name = " + ".join(change.name for change in best.values())
        job = self._job
        try:
            for change in best.values():
                job = change.apply(job, self._seen)
            answer = self._solved("together", job)
        except EstimatorError as error:
            self._refuse(name, "together", error)
            return None
        alters = "numerics" if any(change.alters for change in best.values()) else ""
        found = self._outcome(name, "together", job, answer, alters=alters)
        if self._global is not None and found.effective_batch_size < self._global:
            more = self._accumulated(job, found, f"{name} + accumulation")
            return found if more is None else more.model_copy(update={"title": "together", "alters": alters})
        return found


def micro_batches(global_batch: int, largest: int, least: int) -> int:
    """The fewest micro-batches, `least` or more, of `largest` samples at most; equal ones where that costs few more.

    A number that divides the global batch is preferred up to twice the fewest.
    """
    fewest = max(least, -(-global_batch // largest))
    even = (k for k in range(fewest, min(2 * fewest, global_batch) + 1) if global_batch % k == 0)
    return next(even, fewest)


def _has_batch_statistics(answer: Estimate) -> bool:
    return any("batch_norm" in op.name for op in answer.model.graph.ops)


def _rank(outcome: Outcome) -> tuple[Any, ...]:
    return -outcome.effective_batch_size, outcome.flops_per_sample, outcome.device_bytes
