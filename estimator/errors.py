"""What can go wrong, drawn as a tree.

    EstimatorError
    ├── UsageError                 exit code 2: the question was not well put
    │   ├── JobError               a TrainingJob that cannot be, or does not describe a training step
    │   ├── DeviceError            a device that is unknown, absent or described wrongly
    │   ├── SourceError            a model source (module, file, torchvision:, hf:) that gives no job
    │   └── ConfigError            a file or setting of ours (plan, budget, allocator) that does not parse
    └── CannotPredictError         exit code 3: well put, but no honest number can be given
        ├── TraceError             the step failed on tensors without data
        │   ├── DataDependentError the step reads values that only a real run has
        │   └── MissingKernelError an op has no fake kernel
        ├── TraceDiedError         the process that traced was killed, crashed or ran out of time
        └── FitError               bytes do not follow the batch size in a way the model knows

Every error carries its facts as attributes; the text is made from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class EstimatorError(Exception):
    """A failure with its facts: what is wrong, what was got, what is allowed, where, what to do."""

    exit_code: ClassVar[int] = 3

    def __init__(
        self,
        what: str,
        *,
        got: str | None = None,
        allowed: str | None = None,
        where: str | None = None,
        hint: str | None = None,
        problems: Sequence[str] = (),
    ) -> None:
        self.what = what
        self.got = got
        self.allowed = allowed
        self.where = where
        self.hint = hint
        self.problems = tuple(problems)
        """Further problems of the same kind, each with its path, when several were found at once."""
        super().__init__(what)

    def __str__(self) -> str:
        facts = (("got", self.got), ("allowed", self.allowed), ("where", self.where), ("do", self.hint))
        lines = [self.what, *(f"  - {p}" for p in self.problems)]
        return "\n".join(lines + [f"  {name}: {fact}" for name, fact in facts if fact is not None])

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross a process boundary when a trace runs in a child process.
        return (_rebuild, (type(self), dict(self.__dict__)))


def _rebuild(kind: type[EstimatorError], state: dict[str, object]) -> EstimatorError:
    error = kind.__new__(kind)
    Exception.__init__(error, state.get("what"))
    error.__dict__.update(state)
    return error


class UsageError(EstimatorError):
    exit_code = 2


class JobError(UsageError):
    pass


class DeviceError(UsageError):
    pass


class SourceError(UsageError):
    pass


class ConfigError(UsageError):
    pass


class CannotPredictError(EstimatorError):
    exit_code = 3


class TraceError(CannotPredictError):
    pass


class DataDependentError(TraceError):
    pass


class MissingKernelError(TraceError):
    pass


class TraceDiedError(CannotPredictError):
    pass


class FitError(CannotPredictError):
    pass
