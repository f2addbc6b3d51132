"""What the plugins of trainers share: a prediction for this process, made without touching it."""

from __future__ import annotations

import gc
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from estimator.devices.process import own_rss_bytes
from estimator.errors import JobError

if TYPE_CHECKING:
    from estimator.device import DeviceProfile
    from estimator.result import Estimate


def predicted(given: Any, device: DeviceProfile | str | None = None) -> Estimate:
    """Give an estimate: the one that is given, or of the job that is given (or made by a function).

    `device` None stands for this machine as this process sees it: see `device_of_this_process`.

    Raises:
        JobError: it is none of these.
        EstimatorError: see `estimator.estimate`.
    """
    from estimator.job import TrainingJob
    from estimator.pipeline import estimate
    from estimator.result import Estimate

    if isinstance(given, Estimate):
        return given
    made = given() if callable(given) and not isinstance(given, TrainingJob) else given
    if isinstance(made, Estimate):
        return made
    if not isinstance(made, TrainingJob):
        raise JobError(
            "nothing that can be predicted", got=type(made).__name__,
            allowed="an Estimate, a TrainingJob, or a function that returns one",
        )  # fmt: skip
    with rng_untouched():
        return estimate(made, device if device is not None else device_of_this_process(), cross_check=False)


@contextmanager
def rng_untouched() -> Iterator[None]:
    """Put the states of torch's, numpy's and Python's generators back: looking at data may draw from them."""
    import numpy
    import torch

    python, arrays = random.getstate(), numpy.random.get_state()
    cards = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cards):
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(arrays)


def device_of_this_process() -> DeviceProfile:
    """This machine's device, with what this process holds of it already counted as free: the job is this process.

    On a CPU the process may be larger than one that has torch alone: what it has beside its tensors counts as well.
    """
    from estimator.devices import this_device

    profile = this_device()
    held = own_rss_bytes() if profile.kind == "cpu" else _held_on_card(profile)
    if held == 0:
        return profile
    free = min(profile.total_bytes, profile.capacity_bytes + held)
    sources = profile.sources | {
        "free_bytes": f"{profile.sources.get('free_bytes', '')}; and what this process holds already, {held} bytes"
    }
    update: dict[str, Any] = {"free_bytes": free, "sources": sources}
    if profile.kind == "cpu" and (beside := held - tensor_bytes()) > profile.context_bytes:
        update["context_bytes"] = beside
        sources["context_bytes"] = "measured: resident memory of this process, less the tensors that it has"
    return profile.model_copy(update=update)


def tensor_bytes() -> int:
    """Bytes of this process's CPU tensors that Python knows of, each storage once."""
    import torch

    sizes: dict[int, int] = {}
    for found in gc.get_objects():
        if not issubclass(type(found), torch.Tensor):
            continue
        try:
            storage = found.untyped_storage()
            if storage.device.type == "cpu":
                sizes[storage.data_ptr()] = storage.nbytes()
        except (RuntimeError, NotImplementedError):  # sparse, a subclass without storage, one without data
            continue
    return sum(sizes.values())


def _held_on_card(profile: DeviceProfile) -> int:
    """What the caching allocator of this process has reserved, and its context, which the estimate counts too."""
    import torch

    if not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.memory_reserved()) + profile.context_bytes


def warn_of_others(world_size: int) -> None:
    """Say what the prediction leaves out where several processes train together."""
    if world_size > 1:
        warnings.warn(
            f"the prediction is for one process by itself; {world_size} train together here, and what they exchange "
            "(gradient buckets, gathered shards, NCCL's own memory) is not counted",
            RuntimeWarning,
            stacklevel=3,
        )


def told(answer: Estimate, batch_size: int) -> str:
    """One line: what was asked about, the memory it takes, and the largest that fits."""
    from estimator.units import format_bytes

    batch = answer.at(batch_size)
    verdict = "fits" if batch.fits else f"does not fit ({batch.oom_at or answer.limited_by})"
    return (
        f"batch {batch_size} {verdict} {answer.device.name}: {format_bytes(batch.device_bytes)} of "
        f"{format_bytes(batch.capacity_bytes)}; the largest that fits is {answer.max_batch_size}"
    )
