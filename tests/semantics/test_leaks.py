"""Nothing of the overlay is left after it, whatever happened inside."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from logged import run, target
from torch import nn
from torch._subclasses import fake_impls
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from estimator.semantics import cuda_semantics

pytestmark = pytest.mark.torch


def results() -> list[torch.Tensor]:
    """Real CPU results of ops that the overlay replaces, with gradients and under the CPU's autocast."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    lstm = nn.LSTM(8, 8)
    out = [
        F.dropout(x, 0.5), F.linear(x.transpose(1, 2), x[0, 0]), F.scaled_dot_product_attention(x, x, x, is_causal=True),
        F.batch_norm(x, None, None, training=True), F.group_norm(x, 2), F.rms_norm(x, (8,)), F.softmax(x.half(), -1, torch.float32),
        lstm(x[0])[0], F.binary_cross_entropy_with_logits(x, x.detach().sigmoid()), x[torch.tensor([0, 0])], x.topk(2)[0],
        x.max().reshape(1),
    ]  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16):
        out.append(F.linear(x, x[0, 0]))
        out.append(torch.stack([x, x.bfloat16()]))
    torch.stack([o.float().sum() for o in out]).sum().backward()
    assert x.grad is not None
    return [*[o.detach() for o in out], x.grad]


def test_real_results_are_the_same_before_and_after() -> None:
    """Also after the overlay was entered several times and left by an exception."""
    before = results()
    for _ in range(3):
        run(lambda: None)
    with pytest.raises(ZeroDivisionError), cuda_semantics(target()):
        1 / 0  # noqa: B018
    after = results()
    assert [a.dtype for a in before] == [b.dtype for b in after]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_real_tensors_inside_run_as_on_the_cpu() -> None:
    """Tensors with data belong to the host: they keep the CPU's results, though not its autocast."""

    def plain() -> list[torch.Tensor]:
        torch.manual_seed(0)
        x = torch.randn(2, 4, 8, 8)
        return [F.scaled_dot_product_attention(x, x, x), F.batch_norm(x, None, None, training=True), F.rms_norm(x, (8,)), F.dropout(x, 0.5)]

    before = plain()
    with cuda_semantics(target()):
        inside = plain()
    assert all(torch.equal(a, b) for a, b in zip(before, inside, strict=True))


def test_attributes_and_tables_are_restored() -> None:
    """Functions, classes and torch's own tables are the same objects again."""

    def state() -> list[object]:
        return [
            torch.cuda.is_available, torch.cuda.Stream, torch.Generator, torch.is_autocast_enabled, FakeTensor.__dict__["device"],
            FakeTensorMode.__torch_dispatch__, torch.autograd._engine_run_backward, nn.RNNBase.flatten_parameters,
            torch.autograd.graph.saved_tensors_hooks.__init__, torch.overrides.has_torch_function, torch.utils.swap_tensors,
            len(fake_impls.op_implementations_dict), list(torch.utils._foreach_utils._foreach_supported_types),
            torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch._C._len_torch_function_stack(),
        ]  # fmt: skip

    before = state()
    run(lambda: F.dropout(torch.empty(2, device="cuda"), 0.5))
    assert state() == before
    assert not torch.cuda.is_available() or torch.version.cuda is not None


def test_functions_that_a_module_took_along_turn_true_again() -> None:
    """A module imported during a trace may keep a patched function; afterwards it speaks the truth."""
    kept = []
    with cuda_semantics(target()):
        kept.append(torch.cuda.device_count)
        assert kept[0]() == 1
    assert kept[0]() == torch.cuda.device_count()
