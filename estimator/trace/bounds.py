"""What a kernel would refuse and a tensor without data does not show: rows that a table does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch

from estimator.errors import JobError

_LOOKUP = torch.ops.aten.embedding.default


def check_rows(func: Any, args: tuple[Any, ...], known_value: Callable[[Any], Tensor | None], module: str) -> None:
    """Refuse an embedding that is asked for a row beyond its table, where the indices are known.

    Positions are counted from the shape of the input, so a sequence that is longer than a table of learned positions
    shows here. Source: aten/src/ATen/native/cuda/Embedding.cu and IndexKernel.cu (2.13) assert on the device; on the
    CPU it is `IndexError: index out of range in self`.

    Raises:
        JobError: with the row, the table and its module.
    """
    if func is not _LOOKUP:
        return
    rows = known_value(args[1])
    if rows is None or not rows.numel():
        return
    with no_dispatch():
        low, high = (int(v) for v in torch.aminmax(rows))
    count = args[0].shape[0]
    if low >= 0 and high < count:
        return
    raise JobError(
        "an embedding is asked for a row that its table does not have",
        got=f"row {high if high >= count else low}", allowed=f"0 to {count - 1}", where=f"module {module or '(root)'}",
        hint="if these are positions, the sequence is longer than the model's: give a shorter one, or a table with "
        "more rows",
    )  # fmt: skip
