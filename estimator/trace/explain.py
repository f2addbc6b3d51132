"""Failures of a trace in the user's words: which op, which line, what to do."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from estimator.errors import DataDependentError, EstimatorError, MissingKernelError, TraceError
from estimator.graph import StepGraph

_OURS = Path(__file__).parents[1]
_TORCH = Path(torch.__file__).parent
_NO_ATTENTION = ("No viable backend for scaled_dot_product_attention", "No available kernel. Aborting execution.")
"""What PyTorch says where no kernel takes a call of attention. Source: torch/nested/_internal/sdpa.py and
aten/src/ATen/native/transformers/attention.cpp, 2.13."""

_STEP_FAILS = (
    "the step fails on tensors without data",
    "if the same step runs on real tensors, please report it; --allow-real-run falls back to a tiny real run",
)
_FAILING = {
    "model": (
        "the model cannot be made",
        "TrainingJob.model is called without arguments, where tensors have no data: give a function such as lambda: Net(width=64), "
        "and let it read no values of tensors and load no weights",
    ),
    "optimizer": (
        "the optimizer cannot be made",
        "give a name of torch.optim, or a function that takes the parameters and returns a torch.optim.Optimizer",
    ),
}
"""What fails, and what to do, by the phase in which something was raised."""


def user_line(error: BaseException) -> str:
    """`file:line in function: source` of the last frame that is neither torch's nor ours, "" if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if _OURS not in path.parents and _TORCH not in path.parents and not frame.filename.startswith("<"):
            return f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line or ''}".rstrip(": ")
    return ""


@contextlib.contextmanager
def explained(graph: StepGraph) -> Iterator[None]:
    """Turn whatever a trace raises into an `EstimatorError` that names the op and the user's line."""
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise _data_dependent(str(error.func), error, graph) from error
    except DataDependentError as error:
        raise _data_dependent(error.got or "", error, graph) from error.__cause__
    except EstimatorError:
        raise
    except (UnsupportedOperatorException, NotImplementedError) as error:
        raise _missing_kernel(error, graph) from error
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if no_fake_kernel(error):
            raise _missing_kernel(error, graph) from error
        if _two_devices(error):
            raise TraceError(
                "a tensor of the host meets one of the device", got=str(error).replace("cpu:0", "the device")[:500],
                where=_where(error, graph),
                hint="make it there, or move it: x.to(other.device). A device that was chosen outside of the job's functions, by "
                "torch.cuda.is_available(), is this machine's: choose it within them, or name the file to batch-estimator",
            ) from error  # fmt: skip
        if any(words in str(error) for words in _NO_ATTENTION):
            raise TraceError(
                "no kernel of PyTorch's own takes this attention on the target", got=str(error)[:500], where=_where(error, graph),
                hint="the job would fail there too: make head sizes multiples of 8, use a 16-bit type where a fused kernel was "
                "asked for, or leave the choice of the kernel free; on a CPU jagged queries, keys and values must be contiguous "
                "each (three projections, not one that is split) and not causal",
            ) from error  # fmt: skip
        what, hint = _FAILING.get(graph.phases[-1][0] if graph.phases else "", _STEP_FAILS)
        raise TraceError(
            what, got=f"{type(error).__name__}: {str(error)[:500]}", where=_where(error, graph), hint=hint
        ) from error


def _two_devices(error: BaseException) -> bool:
    """Source: torch/_subclasses/fake_tensor.py, `FakeTensor._find_common_device` (a `RuntimeError` in 2.11)."""
    return type(error).__name__ == "FakeTensorDeviceMismatchError" or (
        isinstance(error, RuntimeError) and "Unhandled FakeTensor Device Propagation" in str(error)
    )


def no_fake_kernel(error: BaseException) -> bool:
    """Whether it is what a custom op raises that has no fake kernel.

    Source: torch/_library/custom_ops.py, `CustomOpDef._register_to_dispatcher`, 2.11 and 2.13.
    """
    return isinstance(error, RuntimeError) and "no fake impl registered" in str(error)


def _missing_kernel(error: BaseException, graph: StepGraph) -> MissingKernelError:
    got = (str(error).splitlines() or [""])[0][:300]
    if "HigherOrderOperator" in got or "FlexAttention" in got:  # flex_attention, cond, while_loop: made for the compiler
        name = got.partition("HigherOrderOperator ")[2].partition(" ")[0] or "flex_attention"
        return MissingKernelError(
            "an op of the compiler's own cannot be traced", got=name, where=_where(error, graph),
            hint="let the job take the plain way for this answer: F.scaled_dot_product_attention in the place of "
            "flex_attention, Python's own branches and loops in the place of torch.cond and while_loop",
        )  # fmt: skip
    nested = "nested" in got
    return MissingKernelError(
        "an op has no kernel for tensors without data",
        got=got,
        where=_where(error, graph),
        hint="the strided layout of nested tensors cannot be traced: make them jagged (layout=torch.jagged), or pad the "
        "sequences and mask them"
        if nested
        else "register one with torch.library.register_fake, or allow a tiny real run (--allow-real-run)",
    )


def _data_dependent(op: str, error: BaseException, graph: StepGraph) -> DataDependentError:
    return DataDependentError(
        "the step branches on, or takes shapes from, values that only a real run has",
        got=op,
        where=_where(error, graph),
        hint="make the step independent of the data, or allow a tiny real run on this machine's CPU (--allow-real-run)",
    )


def _where(error: BaseException, graph: StepGraph) -> str:
    phase = graph.phases[-1][0] if graph.phases else "start"
    module = graph.ops[-1].module if graph.ops else ""
    return "; ".join(
        filter(None, (user_line(error), f"phase {phase}", f"after an op of module {module!r}" if module else ""))
    )
