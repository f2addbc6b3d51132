"""Numbers that a step reads of its tensors and that nobody knows: ordinary ones, which may be used but not looked at."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._mode_utils import no_dispatch

from estimator.errors import DataDependentError
from estimator.graph import StepGraph

CODE = "values-assumed"
_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parents[1])
_SCALING = ("torch/optim/_adafactor.py", "transformers/optimization.py")
"""Files that read norms of tensors to scale an update with, by `max(a, norm)`; no size follows from any of them.

Source: `_single_tensor_adafactor`, torch 2.13; `Adafactor._get_lr`, transformers 4.57."""


class AssumedNumber(float):
    """A number that stands for one that only a real run has: it can be added up, logged and multiplied with.

    A program that compares it or makes an integer of it takes a branch or a size from data, which is refused. Equal to
    itself it is: so code that looks for NaN finds none.
    """

    def _refuse(self, *_: Any) -> Any:
        raise DataDependentError(
            "the step decides by a number that only a real run has",
            got="aten._local_scalar_dense.default: what .item() gave is compared, or made an integer",
        )

    def __eq__(self, other: object) -> bool:
        return True if other is self else bool(self._refuse())

    def __ne__(self, other: object) -> bool:
        return False if other is self else bool(self._refuse())

    __hash__ = float.__hash__
    __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __int__ = _refuse
    __round__ = __trunc__ = __floor__ = __ceil__ = _refuse


def _kept(name: str) -> Callable[..., Any]:
    plain = getattr(float, name)

    def operate(self: AssumedNumber, *others: Any) -> Any:
        result = plain(self, *others)
        return AssumedNumber(result) if type(result) is float else result

    return operate


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "neg", "pos", "abs"):
    setattr(AssumedNumber, f"__{_name}__", _kept(f"__{_name}__"))


class AssumedNumbers:
    """Answers the reading of a floating-point tensor's only element: a loss that is logged, a norm that scales.

    The number is finite and another one in the traces of other batch sizes: a program that follows from it all the
    same (through `float(t)`) is not the same program in two traces, which is refused. Integers and booleans are not
    assumed: they are lengths and branches. Each place in the user's code is named in a warning.
    """

    def __init__(self, graph: StepGraph, at_hand: Callable[[Tensor], Tensor | None]) -> None:
        """Begin with none. `at_hand` gives a tensor's real values, or None where others are to be asked first."""
        self._graph = graph
        self._at_hand = at_hand
        self._fresh = False

    def number(self, t: Tensor) -> float | complex | bool | None:
        """A number in place of the tensor's only element; None where none can be assumed."""
        place, line = _place()
        scales = place.endswith(_SCALING)
        if not (t.is_floating_point() or t.is_complex()):
            return False if scales and t.dtype is torch.bool else None
        if not scales:
            self._fresh = True
            text = (
                f"the step reads a number that only a real run has ({place}:{line}): an ordinary one is taken; it may be "
                "logged or scale something, but nothing in the answer holds for a step that decides by it"
            )
            if (CODE, text) not in self._graph.warnings:
                self._graph.warnings.append((CODE, text))
        value = 1.0 + 1.0 / (1 + self._graph.batch_size)
        return complex(value) if t.is_complex() else value

    @contextlib.contextmanager
    def handed_out(self) -> Iterator[None]:
        """Let `.item()` hand out assumed numbers as what they are, `.tolist()` and `.numpy()` all that is known at once."""

        def item(t: Tensor) -> Any:
            known = self._at_hand(t) if t.numel() == 1 else None
            if known is not None:  # a step counter, read at every step for each parameter: not worth a dispatch
                with no_dispatch():
                    return plain(known)
            self._fresh = False
            value = plain(t)
            return AssumedNumber(value) if self._fresh and type(value) is float else value

        def tolist(t: FakeTensor) -> Any:
            known = self._at_hand(t)  # the lengths of a batch: torch would make a tensor of each
            if known is None:
                return plain_list(t)
            with no_dispatch():
                return known.tolist()

        def numpy(t: FakeTensor, **options: Any) -> Any:
            known = self._at_hand(t)
            if known is None:
                raise DataDependentError("the step takes to NumPy what only a real run has", got="Tensor.numpy()")
            with no_dispatch():
                return known.numpy(**options)

        plain, plain_list = Tensor.item, FakeTensor.tolist
        own = "item" in vars(Tensor)
        Tensor.item = item  # type: ignore[method-assign, assignment]
        FakeTensor.tolist = tolist  # type: ignore[method-assign, assignment]
        FakeTensor.numpy = numpy  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            FakeTensor.tolist = plain_list  # type: ignore[method-assign]
            del FakeTensor.numpy
            if own:
                Tensor.item = plain  # type: ignore[method-assign]
            else:
                del Tensor.item


def _place() -> tuple[str, int]:
    """File and line of the code that reads: the first that is neither torch's machinery nor ours."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        inside = name[len(_TORCH) + 1 :] if name.startswith(_TORCH) else ""
        if inside.startswith(("optim/", "nn/", "amp/")) or not (inside or name.startswith((_OURS, "<"))):
            break
        frame = frame.f_back
    return frame.f_code.co_filename.replace("\\", "/"), frame.f_lineno
