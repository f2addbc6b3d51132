"""What may be said about a job besides naming it: every field is optional, and None leaves the job's own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from estimator.errors import SourceError
from estimator.job import Mode, Precision
from estimator.phases import Cache

Attention = Literal["sdpa", "eager", "flash"]
Size = Annotated[int, Field(ge=1)]
PhaseName = Literal["train", "validation", "generate", "checkpoint", "all"]


class LoraOptions(BaseModel):
    """Low-rank adapters: rank, scale, and the names of the linear layers that get one (none: peft's own choice)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: Size = 8
    alpha: Annotated[float, Field(gt=0)] = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> LoraOptions:
        """Read `r=16,alpha=32,targets=q_proj+v_proj`; names are joined by `+`.

        Raises:
            ValueError: a part is not `name=value`, or a name is unknown.
        """
        fields: dict[str, Any] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, equals, value = (x.strip() for x in part.partition("="))
            if not equals or name not in cls.model_fields:
                raise ValueError(f"{part!r} is not one of {', '.join(f'{f}=' for f in cls.model_fields)}")
            fields[name] = tuple(filter(None, value.split("+"))) if name == "targets" else value
        return cls(**fields)


class JobOptions(BaseModel):
    """Changes to a job, as a command line or a configuration file gives them.

    Raises:
        SourceError: a field is unknown or out of its range; every problem is named at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # What is built.
    image_size: Size | None = None
    """Height and width of an input image, in pixels."""
    sequence_length: Size | None = None
    """Tokens (or samples of audio) of one input."""
    num_classes: Size | None = None
    frames: Size | None = None
    """Frames of one video clip."""
    task: str | None = None
    """Which head a transformers config gets, such as `causal-lm` or `image-classification`."""
    attn: Attention | None = None
    checkpointing: bool | None = None
    lora: LoraOptions | None = None
    freeze: tuple[str, ...] | None = None
    """Parameters that get no gradient: shell patterns over their names; a bare name also means all below it."""

    # How it is run: fields of `TrainingJob`.
    batch_size: Size | None = None
    """A batch size that the source names (TrainingArguments, DeepSpeed); nothing is solved with it."""
    precision: Precision | None = None
    optimizer: str | None = None
    accumulation_steps: Size | None = None
    grad_clip: Annotated[float, Field(gt=0)] | None = None
    grad_scaler: bool | None = None
    channels_last: bool | None = None
    mode: Mode | None = None
    build: Literal["device", "host"] | None = None
    cudnn_benchmark: bool | None = None
    deterministic: bool | None = None
    alloc_conf: str | None = None
    environment: dict[str, str] | None = None
    process_group: Size | None = None
    batch_dim: int | str | None = None
    # What it does besides its steps: see `estimator.phases`.
    phases: tuple[PhaseName, ...] | None = None
    """Exactly these; None leaves the job's own."""
    validation_batch_size: Size | None = None
    new_tokens: Size | None = None
    prompt_length: Size | None = None
    kv_cache: Cache | None = None
    checkpoint_copy: Literal["nowhere", "device", "host"] | None = None
    checkpoint_writer: Literal["torch.save", "safetensors"] | None = None
    notes: tuple[str, ...] = ()
    """Remarks of the file the options were read from; they become the job's."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
            raise SourceError("the options of the job do not hold", problems=problems, where="JobOptions") from None

    @field_validator("environment", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """`NAME=VALUE` texts, as the command line gives them, or a mapping."""
        if not isinstance(value, (list, tuple)):
            return value
        if wrong := [text for text in value if "=" not in str(text)]:
            raise ValueError(f"variables of the run are NAME=VALUE, not {wrong[0]!r}")
        return dict(str(text).split("=", 1) for text in value)

    @field_validator("lora", mode="before")
    @classmethod
    def _lora_text(cls, value: Any) -> Any:
        return LoraOptions.parse(value) if isinstance(value, str) else value

    @field_validator("freeze", "notes", "phases", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the named fields that are not None."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def over(self, other: JobOptions) -> JobOptions:
        """These options, and those of `other` where these say nothing; the notes of both."""
        mine = self.given(*(n for n in type(self).model_fields if n != "notes"))
        theirs = other.given(*(n for n in type(self).model_fields if n != "notes"))
        return JobOptions(**{**theirs, **mine, "notes": other.notes + self.notes})


BUILD_FIELDS = ("image_size", "sequence_length", "num_classes", "frames", "task", "attn")
"""Fields that only whoever builds the model can follow; `checkpointing`, `lora` and `freeze` can be laid over any."""

RUN_FIELDS = (
    "precision",
    "optimizer",
    "accumulation_steps",
    "grad_clip",
    "grad_scaler",
    "channels_last",
    "mode",
    "build",
    "cudnn_benchmark",
    "deterministic",
    "alloc_conf",
    "environment",
    "process_group",
    "batch_dim",
)
"""Fields that are `TrainingJob`'s own."""
