"""Child process that asks cuDNN for the workspaces of convolutions; run as a script, imports nothing of the project.

cuDNN 9 answers questions about a card that is not there when it is given the card's properties ("deviceless" mode).
It may still crash or hang on a question, so the questions go through a child: one JSON object a line on standard
input, one a line on standard output. The first answer holds the version of cuDNN. The card is an argument: told of a
second card in the same process, cuDNN answers for the first (measured, 9.19 and 9.20).

Source: cudnn_graph.h 9.19 (numbers of types, attributes and descriptors); PyTorch 2.11 aten/src/ATen/native/cudnn/
Conv_v8.cpp (operation graph, compute type, alignment, filter of engine configurations, order of the heuristics).
"""

from __future__ import annotations

import ctypes
import json
import mmap
import platform
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Any

DESCRIPTOR, INT64, FLOAT, DOUBLE, CHAR, KNOB = 15, 3, 4, 5, 24, 7
CONVOLUTION, ENGINE, CONFIG, HEURISTICS, GRAPH, TENSOR, CARD = 1, 2, 3, 4, 15, 17, 38
DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 9}
OPERATIONS = {"forward": (10, 700), "data": (12, 706), "weight": (11, 712)}
"""Descriptor of the operation, and its first attribute."""
FIELDS = {
    "forward": {"alpha": 700, "beta": 701, "convolution": 702, "w": 703, "x": 704, "y": 705},
    "data": {"alpha": 706, "beta": 707, "convolution": 708, "w": 709, "x": 710, "y": 711},
    "weight": {"alpha": 712, "beta": 713, "convolution": 714, "w": 715, "x": 716, "y": 717},
}
DOWN_CONVERTS, NONDETERMINISTIC = 1, 4
INSTANT, FALLBACK = 0, 2
ALIGNMENT = 16
ALGORITHM_BYTES = 96
"""Size of cublasLtMatmulHeuristicResult_t. Source: cublasLt.h 13.1."""


class CudnnError(Exception):
    pass


class Cudnn:
    """The backend functions of one loaded libcudnn.

    `has_matmul` says whether its engines that multiply matrices with cuBLASLt take part, `has_compiled` whether those
    that are compiled when they are used do: they need NVRTC and the driver's library, libcuda.
    """

    def __init__(self, path: str, preload: Sequence[str]) -> None:
        loaded = [ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL) for library in preload]
        self.kept = [agree(library) for library, name in zip(loaded, preload, strict=True) if "cublasLt" in name]
        self.has_matmul = any(self.kept)
        self.has_compiled = any("nvrtc" in name for name in preload) and is_loadable("libcuda.so.1")
        lib = self.lib = ctypes.CDLL(path)
        handle, handles = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
        lib.cudnnGetVersion.restype = ctypes.c_size_t
        lib.cudnnBackendCreateDescriptor.argtypes = [ctypes.c_int, handles]
        lib.cudnnBackendDestroyDescriptor.argtypes = [handle]
        lib.cudnnBackendFinalize.argtypes = [handle]
        lib.cudnnBackendSetAttribute.argtypes = [handle, ctypes.c_int, ctypes.c_int, ctypes.c_int64, handle]
        lib.cudnnBackendGetAttribute.argtypes = [
            handle, ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64), handle,
        ]  # fmt: skip

    @property
    def version(self) -> int:
        return int(self.lib.cudnnGetVersion())


def is_loadable(library: str) -> bool:
    """Whether the system's loader finds the library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def agree(cublaslt: ctypes.CDLL) -> list[Any]:
    """Make a loaded cuBLASLt say that it has an algorithm, without workspace, for every product.

    Without a card cuBLASLt refuses, and cuDNN leaves out the engines that give it the convolutions with 1x1 kernels;
    with a card they come first. Three functions are overwritten, in this process, by jumps to functions of ours.

    Returns:
        The functions, which must be kept alive; empty where the processor is not x86-64.
    """
    if platform.machine() != "x86_64":
        return []
    pointer, integers = ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)
    handles = ctypes.POINTER(pointer)

    def create(handle: Any) -> int:
        handle[0] = 1
        return 0

    def destroy(handle: Any) -> int:
        return 0

    def heuristic(*arguments: Any) -> int:
        ctypes.memset(arguments[8], 0, ALGORITHM_BYTES)
        arguments[9][0] = 1
        return 0

    answers = {
        "cublasLtCreate": ctypes.CFUNCTYPE(ctypes.c_int, handles)(create),
        "cublasLtDestroy": ctypes.CFUNCTYPE(ctypes.c_int, pointer)(destroy),
        "cublasLtMatmulAlgoGetHeuristic": ctypes.CFUNCTYPE(
            ctypes.c_int, *[pointer] * 7, ctypes.c_int, pointer, integers
        )(heuristic),
    }  # fmt: skip
    libc, page = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE
    for name, function in answers.items():
        start, to = (ctypes.cast(f, pointer).value or 0 for f in (getattr(cublaslt, name), function))
        jump = b"\x48\xb8" + struct.pack("<Q", to) + b"\xff\xe0"  # mov rax, to; jmp rax
        first = start // page * page
        length = ctypes.c_size_t(-(-(start + len(jump) - first) // page) * page)
        if libc.mprotect(pointer(first), length, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
            return []
        ctypes.memmove(start, jump, len(jump))
    return list(answers.values())


class Descriptor:
    """A backend descriptor; keeps what it refers to alive and is destroyed with its last reference."""

    def __init__(self, cudnn: Cudnn, kind: int) -> None:
        self.cudnn, self.handle, self.kept = cudnn, ctypes.c_void_p(), list[Any]()
        _check(cudnn.lib.cudnnBackendCreateDescriptor(kind, ctypes.byref(self.handle)), f"create {kind}")

    def __del__(self) -> None:
        if self.handle:
            self.cudnn.lib.cudnnBackendDestroyDescriptor(self.handle)

    def set(self, attribute: int, kind: int, values: Any, ctype: Any) -> Descriptor:
        array = (ctype * len(values))(*values)
        lib = self.cudnn.lib
        _check(lib.cudnnBackendSetAttribute(self.handle, attribute, kind, len(values), array), f"set {attribute}")
        return self

    def integers(self, attribute: int, *values: int) -> Descriptor:
        return self.set(attribute, INT64, values, ctypes.c_int64)

    def enum(self, attribute: int, kind: int, value: int) -> Descriptor:
        return self.set(attribute, kind, (value,), ctypes.c_int)

    def descriptor(self, attribute: int, other: Descriptor) -> Descriptor:
        self.kept.append(other)
        return self.set(attribute, DESCRIPTOR, (other.handle,), ctypes.c_void_p)

    def finalize(self) -> Descriptor:
        _check(self.cudnn.lib.cudnnBackendFinalize(self.handle), "finalize")
        return self

    def get(self, attribute: int, kind: int, count: int, array: Any) -> int:
        found = ctypes.c_int64()
        lib = self.cudnn.lib
        status = lib.cudnnBackendGetAttribute(self.handle, attribute, kind, count, ctypes.byref(found), array)
        _check(status, f"get {attribute}")
        return int(found.value)

    def get_integer(self, attribute: int) -> int:
        value = ctypes.c_int64()
        self.get(attribute, INT64, 1, ctypes.byref(value))
        return int(value.value)

    def get_descriptors(self, attribute: int, kind: int, count: int) -> list[Descriptor]:
        empty = [Descriptor(self.cudnn, kind) for _ in range(count)]
        array = (ctypes.c_void_p * count)(*(d.handle for d in empty))
        return empty[: self.get(attribute, DESCRIPTOR, count, array)]


def _check(status: int, what: str) -> None:
    if status:
        raise CudnnError(f"{what}: status {status}")


def make_card(cudnn: Cudnn, properties: dict[str, Any]) -> Descriptor:
    """Describe a card to cuDNN by the properties of its documented JSON form."""
    text = json.dumps(properties, separators=(",", ":")).encode()
    return Descriptor(cudnn, CARD).set(2702, CHAR, text, ctypes.c_char).finalize()


def make_graph(cudnn: Cudnn, call: dict[str, Any]) -> Descriptor:
    """Build the operation graph of one convolution as PyTorch does."""
    kind, dtype = call["kind"], call["dtype"]
    compute = dtype if dtype in ("float32", "float64") else "float32"
    conv = Descriptor(cudnn, CONVOLUTION).enum(100, 1, DATA_TYPES[compute]).enum(101, 7, 1)
    conv.integers(106, len(call["stride"])).integers(102, *call["dilation"]).integers(103, *call["stride"])
    conv.integers(105, *call["padding"]).integers(104, *call["padding"]).finalize()
    fields, operation = FIELDS[kind], Descriptor(cudnn, OPERATIONS[kind][0])
    for name in ("x", "w", "y"):
        operation.descriptor(fields[name], _tensor(cudnn, call[name], call["nhwc"], DATA_TYPES[dtype], ord(name)))
    operation.descriptor(fields["convolution"], conv)
    scale, ctype = (DOUBLE, ctypes.c_double) if dtype == "float64" else (FLOAT, ctypes.c_float)
    operation.set(fields["alpha"], scale, (1.0,), ctype).set(fields["beta"], scale, (0.0,), ctype).finalize()
    return Descriptor(cudnn, GRAPH).descriptor(801, operation).finalize()


def _tensor(cudnn: Cudnn, shape: Sequence[int], nhwc: bool, data_type: int, name: int) -> Descriptor:
    dims = list(range(len(shape) - 1, 1, -1))
    strides, step = [0] * len(shape), 1
    for dim in ([1, *dims] if nhwc else [*dims, 1]) + [0]:
        strides[dim] = step
        step *= shape[dim]
    tensor = Descriptor(cudnn, TENSOR).enum(901, 1, data_type).integers(902, *shape).integers(903, *strides)
    return tensor.integers(906, name).integers(900, ALIGNMENT).finalize()


def plans(cudnn: Cudnn, card: Descriptor, call: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield (engine, workspace bytes) of the configurations PyTorch would try, in its order."""
    graph = make_graph(cudnn, call)
    for mode in (INSTANT, FALLBACK):
        heuristics = Descriptor(cudnn, HEURISTICS).descriptor(204, card).descriptor(201, graph).enum(200, 8, mode)
        try:
            heuristics.finalize()
            count = heuristics.get(202, DESCRIPTOR, 0, None)
        except CudnnError:
            continue
        for wanted in (1, count) if call["first"] else (count,):
            configs = heuristics.get_descriptors(202, CONFIG, wanted) if wanted else []
            for config in configs:
                notes = (ctypes.c_int * 16)()
                engine = config.get_descriptors(300, ENGINE, 1)[0]
                found = set(notes[: engine.get(1303, 11, 16, notes)])
                if call["dtype"] == "float32" and DOWN_CONVERTS in found:
                    continue
                if call["deterministic"] and NONDETERMINISTIC in found:
                    continue
                yield engine.get_integer(1301), config.get_integer(303)


def answer(cudnn: Cudnn, card: Descriptor, question: dict[str, Any]) -> dict[str, Any]:
    """Answer one question: the workspace of the first plan, or of all of them."""
    try:
        found = plans(cudnn, card, question)
        if question["first"]:
            engine, size = next(found)
            return {"engine": engine, "workspace": size}
        return {"workspaces": [size for _, size in found]}
    except (CudnnError, StopIteration) as error:
        return {"error": str(error) or "no engine takes this convolution"}


def main() -> None:
    properties, path, *preload = sys.argv[1:]
    try:
        cudnn = Cudnn(path, preload)
        card = make_card(cudnn, json.loads(properties))
    except (OSError, CudnnError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    hello = {"version": cudnn.version, "has_matmul": cudnn.has_matmul, "has_compiled": cudnn.has_compiled}
    print(json.dumps(hello), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(cudnn, card, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
