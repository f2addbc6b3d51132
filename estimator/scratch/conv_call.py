"""Which implementation PyTorch takes for a convolution on CUDA, and the cuDNN calls it makes of it. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from estimator.device import Target
from estimator.graph import Op, TensorSpec

Backend = Literal["empty", "cudnn", "cudnn_transpose", "depthwise2d", "depthwise3d", "slow2d", "slow_dilated2d",
                  "slow_dilated3d", "slow_transpose2d", "slow_transpose3d"]  # fmt: skip
Kind = Literal["forward", "data", "weight"]
Ints = tuple[int, ...]

_INT_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class CudnnConv:
    """One call of cuDNN. `x` is the side of the convolution's input, `y` of its output, whatever is being computed.

    A transposed convolution is the data gradient of the convolution whose input is its output. Shapes are
    (batch, channels, spatial...) with at least two spatial dimensions; `w` is (channels of y, channels of x / groups,
    kernel...). `nhwc` says that all three lie in memory with the channels innermost.
    """

    kind: Kind
    dtype: str
    nhwc: bool
    x: Ints
    w: Ints
    y: Ints
    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int

    @property
    def is_product(self) -> bool:
        """Whether it is a matrix product: a kernel of one point, moved by one, without padding or groups."""
        is_point = all(size == 1 for size in self.w[2:])
        return is_point and self.groups == 1 and max(self.stride) == 1 and max(self.padding) == 0


@dataclass(frozen=True, slots=True)
class ConvCall:
    """`aten.convolution` or `aten.convolution_backward` with its arguments expanded; 1-D is made 2-D."""

    input: TensorSpec
    weight: TensorSpec
    grad_output: TensorSpec | None
    has_bias: bool
    stride: Ints
    padding: Ints
    dilation: Ints
    transposed: bool
    output_padding: Ints
    groups: int
    mask: tuple[bool, bool, bool]

    @property
    def is_depthwise(self) -> bool:
        """Source: aten/src/ATen/native/Convolution.cpp, ConvParams::is_depthwise, 2.11."""
        channels = self.input.shape[1]
        return (
            not self.transposed
            and channels == self.groups
            and self.groups > 1
            and self.weight.shape[0] % channels == 0
        )

    @property
    def is_dilated(self) -> bool:
        return any(d != 1 for d in self.dilation)


def read_call(op: Op) -> ConvCall:
    """Expand the arguments of `aten.convolution.default` or `aten.convolution_backward.default`."""
    if op.name.startswith("aten.convolution_backward"):
        grad_output, x, weight, bias_sizes, stride, padding, dilation, transposed, out_pad, groups, mask = op.args[:11]
        has_bias = bias_sizes is not None
    else:
        x, weight, bias, stride, padding, dilation, transposed, out_pad, groups = op.args[:9]
        grad_output, has_bias, mask = None, bias is not None, (False, False, False)
    spatial = len(weight.shape) - 2
    numbers = [_expand(value, spatial) for value in (stride, padding, dilation, out_pad)]
    if spatial == 1:
        x, weight = _unsqueeze(lay_out(x, nhwc=False)), _unsqueeze(weight)
        grad_output = None if grad_output is None else _unsqueeze(grad_output)
        numbers = [(fill, *value) for fill, value in zip((1, 0, 1, 0), numbers, strict=True)]
    return ConvCall(x, weight, grad_output, has_bias, numbers[0], numbers[1], numbers[2], bool(transposed), numbers[3],
                    int(groups), (bool(mask[0]), bool(mask[1]), bool(mask[2])))  # fmt: skip


def is_channels_last(call: ConvCall, a: TensorSpec, b: TensorSpec) -> bool:
    """Whether cuDNN is called with the channels innermost: one of the two tensors suggests it, none is float64.

    Source: aten/src/ATen/native/ConvUtils.h, cudnn_conv_suggest_memory_format, 2.11.
    """
    if "float64" in (a.dtype, b.dtype) or len(call.weight.shape) not in (4, 5):
        return False
    return suggests_channels_last(a) or suggests_channels_last(b)


def suggests_channels_last(tensor: TensorSpec) -> bool:
    """Whether strides say channels last, decided as `Tensor.suggest_memory_format` decides it (1x1 images included).

    Source: c10/core/MemoryFormat.h, is_channels_last_strides_2d_s4 and _3d_s5, 2.11.
    """
    if len(tensor.shape) not in (4, 5):
        return False
    if tensor.stride[1] == 0:
        return False
    least = 0
    for dim in (1, *range(len(tensor.shape) - 1, 1, -1), 0):
        if tensor.shape[dim] == 0 or tensor.stride[dim] < least:
            return False
        if dim == 0 and least == tensor.stride[1]:
            return False  # all sizes one: the contiguous reading wins
        least = tensor.stride[dim]
        if tensor.shape[dim] > 1:
            least *= tensor.shape[dim]
    return True


def select_backend(call: ConvCall, target: Target) -> Backend:
    """Pick the implementation of a convolution on CUDA.

    Source: aten/src/ATen/native/Convolution.cpp, _select_conv_backend, ConvParams::use_cudnn and use_cudnn_depthwise,
    2.11 (cuDNN present and enabled); cuDNN takes bfloat16 from compute capability 8.0 on (CUDAHooks,
    supportsBFloat16ConvolutionWithCuDNNv8).
    """
    x, three = call.input, len(call.weight.shape) == 5
    if x.shape[0] == 0 or x.shape[1] == 0:
        return "empty"
    if call.is_depthwise:
        if _use_cudnn_depthwise(call):
            return "cudnn"
        return "depthwise3d" if three else "depthwise2d"
    is_taken = x.dtype != "bfloat16" or (target.device.compute_capability or (8, 0)) >= (8, 0)
    if is_taken and all(p < s for p, s in zip(call.output_padding, call.stride, strict=True)):
        return "cudnn_transpose" if call.transposed else "cudnn"
    if call.transposed:
        return "slow_transpose3d" if three else "slow_transpose2d"
    if three:
        return "slow_dilated3d"
    return "slow_dilated2d" if call.is_dilated else "slow2d"


def _use_cudnn_depthwise(call: ConvCall) -> bool:
    x, weight = call.input, call.weight
    if x.numel > _INT_MAX or weight.numel > _INT_MAX:
        return True
    if is_channels_last(call, x, weight):
        return True
    if x.dtype != "float16" or weight.dtype != "float16" or len(x.shape) != 4 or call.is_dilated or x.shape[1] < 32:
        return False
    if call.stride[0] != call.stride[1] and x.shape[2] != 1:
        return False
    return _depthwise_workload(x.shape, weight.shape, call.stride[1])


def _depthwise_workload(x: Ints, w: Ints, stride: int) -> bool:
    """Source: aten/src/ATen/native/Convolution.cpp, check_cudnn_depthwise_workload_with_filter, 2.11."""
    if x[2] == 1 and stride == 1:
        return True
    kernel, width = w[3], x[3]
    if w[2] != kernel or kernel not in (1, 3, 5) or width < 7:
        return False
    if stride != 2:
        return stride == 1
    if x[0] == 1:
        return kernel != 1 or width <= 28
    if kernel == 1:
        return x[0] <= 16 and x[1] >= 128 and width <= 7
    return x[1] >= 512 or (x[1] >= 256 and width >= 28)


def _expand(value: Any, count: int) -> Ints:
    numbers = (value,) if isinstance(value, int) else tuple(int(v) for v in value)
    return numbers * count if len(numbers) == 1 else numbers


def lies_as(tensor: TensorSpec, nhwc: bool) -> bool:
    """Whether `tensor.contiguous(memory_format)` is the tensor itself."""
    return tensor.is_channels_last if nhwc else tensor.is_contiguous


def lay_out(tensor: TensorSpec, nhwc: bool) -> TensorSpec:
    """The tensor as a copy of it lies in memory, channels innermost or outermost."""
    spatial = range(len(tensor.shape) - 1, 1, -1)
    stride, step = [0] * len(tensor.shape), 1
    for dim in (1, *spatial, 0) if nhwc else (*spatial, 1, 0):
        stride[dim] = step
        step *= max(tensor.shape[dim], 1)
    return tensor._replace(stride=tuple(stride))


def _unsqueeze(tensor: TensorSpec) -> TensorSpec:
    """`tensor.unsqueeze(2)`, as PyTorch turns one spatial dimension into two."""
    shape, stride = tensor.shape, tensor.stride
    return tensor._replace(
        shape=(*shape[:2], 1, *shape[2:]), stride=(*stride[:2], shape[2] * stride[2], *stride[2:])
    )
