"""Integers as exact polynomials in the batch size, through two or three calibration points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from estimator.errors import FitError
from estimator.graph import TensorSpec


class Curve(NamedTuple):
    """`constant + per_sample * n + per_pair * n**2`, exact; evaluates to an integer at every batch size."""

    constant: Fraction
    per_sample: Fraction = Fraction(0)
    per_pair: Fraction = Fraction(0)

    def at(self, n: int) -> int:
        """The value at batch size `n`, rounded up where a fraction is left."""
        constant, slope, bend = self
        if constant.denominator == slope.denominator == 1 and not bend:  # most are: fractions take their time
            return constant.numerator + slope.numerator * n
        value = constant + slope * n + bend * n * n
        return -((-value.numerator) // value.denominator)

    @property
    def degree(self) -> int:
        return 2 if self.per_pair else 1 if self.per_sample else 0


def curve_through(sizes: Sequence[int], values: Sequence[int]) -> Curve:
    """The polynomial of lowest degree through the points: a constant, a line, or with three points a parabola."""
    if all(v == values[0] for v in values):
        return Curve(Fraction(values[0]))
    slope = Fraction(values[1] - values[0], sizes[1] - sizes[0])
    line = Curve(values[0] - slope * sizes[0], slope)
    if len(sizes) == 2 or all(line.at(n) == v for n, v in zip(sizes[2:], values[2:], strict=True)):
        return line
    (x0, x1, x2), (y0, y1, y2) = sizes[:3], values[:3]
    second = Fraction(y2 - y1, x2 - x1)
    bend = (second - slope) / (x2 - x0)
    return Curve(y0 - slope * x0 + bend * x0 * x1, slope - bend * (x0 + x1), bend)


def is_rising_line(points: dict[int, int]) -> bool:
    """Whether the values at three sizes or more lie on one line that rises."""
    line = curve_through(list(points), list(points.values())) if len(points) > 2 else Curve(Fraction(0))
    return line.degree == 1 and line.per_sample > 0 and all(line.at(n) == value for n, value in points.items())


def interpolate(first: Any, second: Any, sizes: tuple[int, int], n: int) -> Any:
    """An op's argument at batch size `n`, from the same argument at two sizes: integers follow a line."""
    if first == second and type(first) is type(second):
        return first
    if isinstance(first, TensorSpec) and isinstance(second, TensorSpec):
        shape, order = interpolate(first.shape, second.shape, sizes, n), _dense_order(first, second)
        stride = interpolate(first.stride, second.stride, sizes, n) if order is None else _dense(shape, order)
        return TensorSpec(first.dtype, shape, stride, first.storage)
    if isinstance(first, tuple) and isinstance(second, tuple) and len(first) == len(second):
        return tuple(interpolate(a, b, sizes, n) for a, b in zip(first, second, strict=True))
    if isinstance(first, int) and isinstance(second, int):
        return first + (second - first) * (n - sizes[0]) // (sizes[1] - sizes[0])
    if isinstance(first, float) and isinstance(second, float):
        return first + (second - first) * (n - sizes[0]) / (sizes[1] - sizes[0])
    raise FitError(
        "an op's arguments differ between two batch sizes in more than numbers",
        got=f"{first!r} and {second!r}",
        where=f"batch sizes {sizes[0]} and {sizes[1]}",
    )


def _dense_order(first: TensorSpec, second: TensorSpec) -> list[int] | None:
    """The order, outermost first, in which both tensors lie without a gap, where more than one extent follows the batch.

    Their strides are then products of extents, which no line follows. None where they are not so, or lines do.
    """
    if sum(a != b for a, b in zip(first.shape, second.shape, strict=False)) < 2:
        return None
    order = sorted(range(len(second.shape)), key=lambda d: -second.stride[d])
    alike = all(spec.stride == _dense(spec.shape, order) for spec in (first, second))
    return order if alike else None


def _dense(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    stride, step = [0] * len(shape), 1
    for d in reversed(order):
        stride[d], step = step, step * shape[d]
    return tuple(stride)


def interpolation(first: Any, second: Any, sizes: tuple[int, int]) -> Callable[[int], Any] | None:
    """`interpolate` of two arguments as a function of the batch size; None where they are the same."""
    if first == second and type(first) is type(second):
        return None
    if isinstance(first, TensorSpec) and isinstance(second, TensorSpec):
        extents = interpolation((first.shape, first.stride), (second.shape, second.stride), sizes)
        if first.dtype == second.dtype and extents is not None:
            dtype, storage, order = first.dtype, first.storage, _dense_order(first, second)

            def spec(n: int) -> TensorSpec:
                shape, stride = extents(n)
                return TensorSpec(dtype, shape, stride if order is None else _dense(shape, order), storage)

            return spec
    elif isinstance(first, tuple) and isinstance(second, tuple) and len(first) == len(second):
        parts = [interpolation(a, b, sizes) for a, b in zip(first, second, strict=True)]
        moving = [(index, part) for index, part in enumerate(parts) if part is not None]
        if type(first) is tuple and moving:

            def moved(n: int) -> tuple[Any, ...]:
                out = list(first)
                for index, part in moving:
                    out[index] = part(n)
                return tuple(out)

            return moved
    elif type(first) is int and type(second) is int:
        start, steps, change, base = sizes[0], sizes[1] - sizes[0], second - first, first
        return lambda n: base + change * (n - start) // steps
    return lambda n: interpolate(first, second, sizes, n)
