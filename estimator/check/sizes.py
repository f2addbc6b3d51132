"""Sizes as a configuration file writes them: a budget, and how much growth is allowed."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from estimator.errors import ConfigError
from estimator.units import format_bytes, parse_bytes

_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


class Tolerance(BaseModel):
    """Growth over a baseline that is allowed: a number of bytes, or a share of what the baseline has."""

    model_config = ConfigDict(frozen=True)

    size_bytes: Annotated[int, Field(ge=0)] = 0
    percent: Annotated[Fraction, Field(ge=0)] = Fraction(0)

    @classmethod
    def parse(cls, value: Any) -> Tolerance:
        """Read `64MiB`, a number of bytes, or `2.5%`.

        Raises:
            ValueError: none of these.
        """
        if isinstance(value, Tolerance):
            return value
        if isinstance(value, str) and (match := _PERCENT.fullmatch(value)):
            return cls(percent=Fraction(match[1]))
        try:
            return cls(size_bytes=size_of(value))
        except ValueError as error:
            raise ValueError(f'{error}, or a share such as "2%"') from None

    def allowed_bytes(self, baseline_bytes: int) -> int:
        """Bytes by which a figure may exceed the baseline's; a share is rounded down."""
        return self.size_bytes + int(baseline_bytes * self.percent / 100)

    def __str__(self) -> str:
        return f"{float(self.percent):g} %" if self.percent else format_bytes(self.size_bytes)


def size_of(value: Any) -> int:
    """Bytes of a size such as "20GiB", or of a whole number.

    Raises:
        ValueError: no size.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f'a size is a whole number of bytes or a string such as "20GiB" (got {value!r})')
    try:
        return parse_bytes(value)
    except ConfigError as error:
        raise ValueError(f"{error.what} (got {error.got}); allowed: {error.allowed}") from None


Size = Annotated[int, BeforeValidator(size_of), Field(gt=0)]
"""A size that is more than nothing."""
Growth = Annotated[Tolerance, BeforeValidator(Tolerance.parse)]
