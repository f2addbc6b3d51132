"""What is trained: one record, checked when it is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from estimator.environment import problem as environment_problem
from estimator.errors import JobError
from estimator.phases import Checkpoint, Generation, Validation

Precision = Literal["fp32", "amp-bf16", "amp-fp16", "bf16", "fp16"]
Mode = Literal["train", "inference"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
SIZE_NAMES = ("length", "sequence_length", "image_size", "frames")
"""What a batch function may take besides the number of samples: the size of each of them."""


class TrainingJob(BaseModel):
    """A training step (or an inference step): model, data, loss, optimizer and how they are run.

    `model` is an `nn.Module` or a factory of one; a factory is built without memory, so prefer it.
    `batch` is a function of the number of samples, an example batch (any pytree of tensors), a `Dataset` or a
    `DataLoader`. A function may also take the size of a sample, by one of the names in `SIZE_NAMES`
    (`lambda n, length: ...`); `job.sized(512)` is then the job with samples of that size. `loss(model, batch)` gives the scalar that is differentiated; without it the model's own
    `.loss` (a `ModelOutput` or a dict) is taken, or in inference its output. `step(model, optimizer, batch)`
    replaces loss, backward and optimizer step by a loop of the user's own.

    `validation`, `generation` and `checkpoint` (True, or a record of `estimator.phases`) are done after training
    steps, and training goes on after them; the memory is the most that any of them takes. In inference a generation
    takes the place of the plain forward pass.

    Raises:
        JobError: a field is missing, unknown or contradicts another; every problem is named at once.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", frozen=True)

    model: Any
    batch: Any
    loss: Callable[..., Any] | None = None
    optimizer: Callable[..., Any] | str | None = None
    step: Callable[..., Any] | None = None
    name: str = "job"
    precision: Precision = "fp32"
    mode: Mode = "train"
    grad_clip: Annotated[float, Field(gt=0)] | None = None
    accumulation_steps: Annotated[int, Field(ge=1)] = 1
    grad_scaler: bool = False
    channels_last: bool = False
    zero_grad_set_to_none: bool = True
    batch_dim: int | str | None = None
    """The batch dimension of an example batch: its index in every tensor, or None to find it."""
    build: Literal["device", "host"] = "device"
    """Where the model is built: on the device parameter by parameter, or on the host and then moved."""
    cudnn_benchmark: bool = False
    deterministic: bool = False
    alloc_conf: str = ""
    """The `PYTORCH_ALLOC_CONF` the job will run with."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Other variables of the run that change memory, such as `CUBLAS_WORKSPACE_CONFIG` (see `estimator.environment`)."""
    process_group: Annotated[int, Field(ge=1)] | None = None
    """Ranks of the NCCL process group that the job joins; None: it joins none. The step itself stays that of one card."""
    validation: Validation | None = None
    generation: Generation | None = None
    checkpoint: Checkpoint | None = None
    notes: tuple[str, ...] = ()
    """Remarks of whoever made the job (a source, say) that belong in the report as warnings."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, e['loc'])) or 'job'}: {e['msg'].removeprefix('Value error, ')} (got "
                f"{_short(e['input'])})"
                for e in error.errors()
            ]
            raise JobError(
                "the training job is not complete or contradicts itself", problems=problems, where="TrainingJob",
                hint="see help(estimator.TrainingJob) for what each field takes",
            ) from None  # fmt: skip

    @field_validator("validation", "generation", "checkpoint", mode="before")
    @classmethod
    def _asked_for(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, bool):
            return value
        return (
            {"validation": Validation, "generation": Generation, "checkpoint": Checkpoint}[str(info.field_name)]()
            if value
            else None
        )

    @field_validator("model", "batch")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("must be given")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> TrainingJob:
        if self.mode == "train" and self.optimizer is None and self.step is None:
            raise ValueError('training needs an optimizer (or step=, or mode="inference")')
        if self.loss is not None and self.step is not None:
            raise ValueError("give loss or step, not both")
        if self.grad_scaler and self.precision != "amp-fp16":
            raise ValueError(f'grad_scaler goes with precision="amp-fp16", not {self.precision!r}')
        if self.mode == "inference" and (self.validation or self.checkpoint):
            raise ValueError(
                'validation and checkpoint come after training steps: give mode="train", or leave them out'
            )
        if self.validation and self.step is not None and self.validation.loss is None:
            raise ValueError("with step= validation needs its own loss: Validation(loss=lambda model, batch: ...)")
        return self

    @field_validator("environment")
    @classmethod
    def _known_variables(cls, value: dict[str, str]) -> dict[str, str]:
        if said := environment_problem(value):
            raise ValueError(said)
        return value

    @property
    def goes_on_after_steps(self) -> bool:
        """Whether something else than training steps is done."""
        return self.mode == "train" and any((self.validation, self.generation, self.checkpoint))

    @property
    def size_name(self) -> str | None:
        """The name by which `batch` takes the size of a sample, if it does."""
        found = size_parameter(self.batch)
        return None if found is None else found.name

    def sized(self, size: int) -> TrainingJob:
        """The same job with samples of one size: tokens, or pixels a side.

        Raises:
            JobError: `batch` takes no size, or it is below 1.
        """
        name = self.size_name
        if name is None:
            raise JobError(
                "the batch takes no size of a sample", got=_short(self.batch), where="TrainingJob.batch",
                allowed=f"a function of n and of one of {', '.join(SIZE_NAMES)}", hint="batch=lambda n, length: ...",
            )  # fmt: skip
        if size < 1:
            raise JobError("a sample has a size of 1 or more", got=f"{name}={size}", where="TrainingJob.sized")
        return self.with_(batch=partial(self.batch, **{name: size}))

    def with_(self, **changes: Any) -> TrainingJob:
        """The same job with some fields changed, checked again."""
        return TrainingJob(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def size_parameter(batch: Any) -> inspect.Parameter | None:
    """The parameter of a batch function that is the size of a sample; None where it has none."""
    if not callable(batch) or isinstance(batch, type):
        return None
    try:
        parameters = list(inspect.signature(batch).parameters.values())
    except (TypeError, ValueError):  # a function that does not show its parameters
        return None
    return next((p for p in parameters[1:] if p.name in SIZE_NAMES), None)


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."
