"""A drop-in for accelerate's `find_executable_batch_size` that starts from the prediction."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from estimator.errors import UsageError

if TYPE_CHECKING:
    from estimator.device import DeviceProfile
    from estimator.job import TrainingJob
    from estimator.result import Estimate


def find_executable_batch_size(
    function: Callable[..., Any] | None = None,
    starting_batch_size: int | None = None,
    reduce_batch_size_fn: Callable[[], int] | None = None,
    *,
    job: Estimate | TrainingJob | Callable[[], Any] | None = None,
    device: DeviceProfile | str | None = None,
) -> Any:
    """Decorate a function of the batch size: it is called with the largest that is predicted to fit.

    What happens then is accelerate's own doing: if memory runs out all the same, the batch is made smaller and the
    function called again. Without `job` this is accelerate's decorator, unchanged.

    Args:
        function: takes the batch size as its first argument.
        starting_batch_size: at most this; without `job`, what accelerate takes it for (its default is 128).
        reduce_batch_size_fn: as accelerate's.
        job: what is predicted, when the function is first called: an `Estimate`, a `TrainingJob`, or a function that
            gives one.
        device: on which; None for this machine, where what this process holds counts as free.

    Raises:
        UsageError: accelerate is not installed.
    """
    theirs = _accelerate()
    if function is None:
        return functools.partial(
            find_executable_batch_size,
            starting_batch_size=starting_batch_size,
            reduce_batch_size_fn=reduce_batch_size_fn,
            job=job,
            device=device,
        )
    given = {} if starting_batch_size is None else {"starting_batch_size": starting_batch_size}
    if job is None:
        return theirs(function, reduce_batch_size_fn=reduce_batch_size_fn, **given)
    made: list[Callable[..., Any]] = []

    # No functools.wraps: accelerate's own decorator gives a bare function too.
    def decorator(*args: Any, **kwargs: Any) -> Any:
        if not made:
            start = starting_size(job, starting_batch_size, device)
            made.append(theirs(function, starting_batch_size=start, reduce_batch_size_fn=reduce_batch_size_fn))
        return made[0](*args, **kwargs)

    return decorator


def starting_size(job: Any, most: int | None = None, device: DeviceProfile | str | None = None) -> int:
    """The batch size to begin with: the largest that is predicted to fit, at most `most` and at least 1.

    Warns where not even one sample is predicted to fit.
    """
    from estimator.integrations.predicted import predicted

    answer = predicted(job, device)
    if answer.max_batch_size == 0:
        warnings.warn(f"not even a batch of 1 is predicted to fit: {answer.limited_by}", RuntimeWarning, stacklevel=3)
        return 1
    return answer.max_batch_size if most is None else min(most, answer.max_batch_size)


def _accelerate() -> Callable[..., Any]:
    try:
        from accelerate.utils import find_executable_batch_size as theirs
    except ImportError:
        raise UsageError(
            "accelerate is not installed", where="estimator.find_executable_batch_size", hint="pip install accelerate"
        ) from None
    found: Callable[..., Any] = theirs
    return found
