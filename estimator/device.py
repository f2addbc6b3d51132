"""What a job runs on: one record for a device, one for a device with the software on it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from estimator.errors import ConfigError

Bytes = Annotated[int, Field(ge=0)]


class DeviceProfile(BaseModel):
    """A device as PyTorch sees it. Every size is in bytes.

    `total_bytes` is what `torch.cuda.get_device_properties(0).total_memory` reports (for a CPU: the RAM this
    process may use). `free_bytes` is what is free before the job starts, `total_bytes` where not given.
    `context_bytes` is what the CUDA context takes of it (for a CPU: RSS of an interpreter with torch that
    has trained a few weights).
    `sources` says for each number where it comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    kind: Literal["cuda", "cpu"]
    total_bytes: Annotated[int, Field(gt=0)]
    free_bytes: Bytes | None = None
    context_bytes: Bytes = 0
    context_low_bytes: Bytes | None = None
    context_high_bytes: Bytes | None = None
    compute_capability: tuple[int, int] | None = None
    multiprocessor_count: Annotated[int, Field(gt=0)] | None = None
    title: str = ""
    aliases: tuple[str, ...] = ()
    sources: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> DeviceProfile:
        if self.free_bytes is not None and self.free_bytes > self.total_bytes:
            raise ValueError(f"free_bytes ({self.free_bytes}) is more than total_bytes ({self.total_bytes})")
        if self.kind == "cuda" and self.compute_capability is None:
            raise ValueError("a cuda device needs compute_capability, for example (8, 0)")
        if self.kind == "cuda" and self.multiprocessor_count is None:
            raise ValueError("a cuda device needs multiprocessor_count, for example 108")
        return self

    @property
    def capacity_bytes(self) -> int:
        """What the job may take in all, context included."""
        return self.total_bytes if self.free_bytes is None else self.free_bytes

    @property
    def threads_per_multiprocessor(self) -> int:
        """Most resident threads of one multiprocessor.

        Source: CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability".
        """
        if self.compute_capability in ((7, 5),):
            return 1024
        if self.compute_capability in ((8, 6), (8, 7), (8, 9), (11, 0), (12, 0), (12, 1)):
            return 1536
        return 2048


class Target(BaseModel):
    """A device and the software on it: all that a rule about kernels or libraries may depend on."""

    model_config = ConfigDict(frozen=True)

    device: DeviceProfile
    torch_version: str
    cudnn_benchmark: bool = False
    deterministic: bool = False
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables of the run, as `estimator.environment` knows them."""

    @field_validator("torch_version")
    @classmethod
    def _is_a_version(cls, value: str) -> str:
        if re.match(r"\d+\.\d+", value) is None:
            raise ConfigError("not a torch version", got=repr(value), allowed="major.minor, such as 2.13.0", where="torch_version")
        return value

    @property
    def torch_release(self) -> tuple[int, int]:
        """(major, minor) of the torch that will run the job."""
        major, minor = self.torch_version.split(".")[:2]
        return int(major), int(minor)
