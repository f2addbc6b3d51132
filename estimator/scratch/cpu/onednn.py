"""Ask the oneDNN inside of torch how much scratchpad a primitive takes: it is described to it, never made or run.

oneDNN's kernels are chosen by instruction set, thread count, shapes and layouts, and each takes other scratch. Its C
interface answers for a primitive *descriptor*. torch links oneDNN statically and does not export that interface, so
its functions are looked up in the symbol table that the Linux wheels carry. Where there is none (a stripped library,
another system, a target with another torch), there is no answer, and rules say so with an interval.

Source: oneapi/dnnl/dnnl.h and dnnl_types.h as shipped in torch/include (interface and enumerators, oneDNN 3.x).
"""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import struct
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

_LIBRARY = "libtorch_cpu.so"
_EXPORTED = "_ZN2at15get_num_threadsEv"
"""A function of torch's that the dynamic symbol table has too: it tells where the library lies in memory."""
_SYMTAB, _SYMBOL_BYTES = 2, 24
"""Source: ELF-64 object file format: section type SHT_SYMTAB, size of Elf64_Sym."""
_DTYPES = {"float16": 1, "bfloat16": 2, "float32": 3}
_MOST_DIMS = 12
_CPU, _SUCCESS, _TAG_ANY, _USER_SCRATCHPAD = 1, 0, 1, 1
QUERY_WORKSPACE, QUERY_SCRATCHPAD, QUERY_ARGUMENT = 135, 136, 255
_QUERY_INNER_BLOCKS = 263
"""Source: dnnl_types.h, dnnl_query_inner_nblks_s32, oneDNN 3.12."""
_Dims = ctypes.c_int64 * _MOST_DIMS
_Pointer = ctypes.c_void_p


class Layout(NamedTuple):
    """A tensor for oneDNN. Without strides oneDNN chooses the format."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None


class Symbols:
    """Addresses of functions that a loaded library does not export, from the symbol table of its file."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        (start,) = struct.unpack_from("<Q", self._map, 0x28)
        size, count = struct.unpack_from("<HH", self._map, 0x3A)
        sections = [struct.unpack_from("<IIQQQQIIQQ", self._map, start + i * size) for i in range(count)]
        table = next((s for s in sections if s[1] == _SYMTAB), None)
        if table is None:
            raise LookupError(f"{path} has no symbol table")
        self._table, self._strings = table, sections[table[6]]
        exported = ctypes.cast(getattr(ctypes.CDLL(str(path)), _EXPORTED), _Pointer).value or 0
        self._base = exported - self._value(_EXPORTED)

    def address(self, name: str) -> int:
        """Where function `name` is in this process.

        Raises:
            LookupError: the library has no such function.
        """
        return self._base + self._value(name)

    def _value(self, name: str) -> int:
        text, begin, end = b"\0" + name.encode() + b"\0", self._strings[4], self._strings[4] + self._strings[5]
        found = self._map.find(text, begin, end)
        if found < 0:
            raise LookupError(f"no symbol {name}")
        entry = struct.pack("<I", found + 1 - begin)
        begin, end = self._table[4], self._table[4] + self._table[5]
        place = self._map.find(entry, begin, end)
        while place >= 0 and (place - begin) % _SYMBOL_BYTES:
            place = self._map.find(entry, place + 1, end)
        if place < 0:
            raise LookupError(f"no symbol {name}")
        value: int = struct.unpack_from("<Q", self._map, place + 8)[0]
        return value


class OneDnn:
    """oneDNN's C interface, as far as descriptors of primitives need it.

    Raises:
        LookupError: this torch does not show it.
    """

    def __init__(self, path: Path) -> None:
        self._symbols = Symbols(path)
        self._functions: dict[str, Callable[..., Any]] = {}
        self._engine = self._made("dnnl_engine_create", ctypes.c_int(_CPU), ctypes.c_size_t(0))

    def call(self, name: str, *args: Any, restype: Any = ctypes.c_int) -> Any:
        """Call a function of the interface; arguments are ctypes values, None is a null pointer."""
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = ctypes.CFUNCTYPE(restype)(self._symbols.address(name))
        return function(*(_Pointer(None) if a is None else a for a in args))

    def _made(self, name: str, *args: Any) -> ctypes.c_void_p:
        """What a function makes in its first argument; null where oneDNN cannot."""
        made = _Pointer()
        status = self.call(name, ctypes.byref(made), *args)
        return made if status == _SUCCESS else _Pointer()

    def layout(self, given: Layout | None) -> ctypes.c_void_p | None:
        """A memory descriptor."""
        if given is None:
            return None
        head = (ctypes.c_int(len(given.shape)), dims(given.shape), ctypes.c_int(_DTYPES[given.dtype]))
        if given.stride is None:
            return self._made("dnnl_memory_desc_create_with_tag", *head, ctypes.c_int(_TAG_ANY))
        return self._made("dnnl_memory_desc_create_with_strides", *head, dims(given.stride))

    def attributes(self, *, add_to_result: bool, scale_result: bool) -> ctypes.c_void_p:
        """Attributes of a primitive whose caller gives the scratchpad, as torch's does.

        Source: ideep, operators/matmul.hpp, `do_prepare`.
        """
        made = self._made("dnnl_primitive_attr_create")
        self.call("dnnl_primitive_attr_set_scratchpad_mode", made, ctypes.c_int(_USER_SCRATCHPAD))
        if add_to_result:
            ops = self._made("dnnl_post_ops_create")
            self.call("dnnl_post_ops_append_sum", ops, ctypes.c_float(1.0), ctypes.c_int32(0), ctypes.c_int(0))
            self.call("dnnl_primitive_attr_set_post_ops", made, ops)
            self.call("dnnl_post_ops_destroy", ops)
        if scale_result:
            self.call("dnnl_primitive_attr_set_scales_mask", made, ctypes.c_int(_WEIGHTS_ARGUMENT), ctypes.c_int(0))
        return made

    def descriptor(self, name: str, *args: Any) -> ctypes.c_void_p | None:
        """A primitive's descriptor; None where oneDNN has no implementation."""
        made = self._made(name, self._engine, *args)
        return made if made.value else None

    def bytes_of(self, descriptor: ctypes.c_void_p, query: int, index: int = 0) -> int:
        """Bytes of one of a primitive's tensors."""
        found = self.call("dnnl_primitive_desc_query_md", descriptor, ctypes.c_int(query), ctypes.c_int(index), restype=_Pointer)
        return int(self.call("dnnl_memory_desc_get_size", _Pointer(found), restype=ctypes.c_size_t))

    def differs(self, descriptor: ctypes.c_void_p, query: int, given: ctypes.c_void_p | None, index: int = 0) -> bool:
        """Whether the primitive wants one of its tensors in another format than it is given in."""
        found = self.call("dnnl_primitive_desc_query_md", descriptor, ctypes.c_int(query), ctypes.c_int(index), restype=_Pointer)
        return not self.call("dnnl_memory_desc_equal", _Pointer(found), given)

    def is_blocked(self, descriptor: ctypes.c_void_p, query: int, index: int = 0) -> bool:
        """Whether the primitive wants one of its tensors in blocks; else strides say where its elements lie."""
        found = self.call("dnnl_primitive_desc_query_md", descriptor, ctypes.c_int(query), ctypes.c_int(index), restype=_Pointer)
        count = ctypes.c_int(-1)
        self.call("dnnl_memory_desc_query", _Pointer(found), ctypes.c_int(_QUERY_INNER_BLOCKS), ctypes.byref(count))
        return count.value != 0

    def destroy(self, *descriptors: ctypes.c_void_p | None) -> None:
        """Destroy primitive descriptors."""
        for descriptor in descriptors:
            if descriptor is not None:
                self.call("dnnl_primitive_desc_destroy", descriptor)

    def forget(self, *layouts: ctypes.c_void_p | None) -> None:
        """Destroy memory descriptors."""
        for layout in layouts:
            if layout is not None:
                self.call("dnnl_memory_desc_destroy", layout)


_WEIGHTS_ARGUMENT = 33
"""Source: dnnl_types.h, DNNL_ARG_WEIGHTS."""


def dims(values: Sequence[int]) -> Any:
    """The array that the interface takes for sizes, strides and the like."""
    return _Dims(*values)


@lru_cache(maxsize=1)
def interface() -> OneDnn | None:
    """The oneDNN of the installed torch; None where it cannot be asked."""
    found = importlib.util.find_spec("torch")
    if sys.platform != "linux" or found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "lib" / _LIBRARY
    try:
        importlib.import_module("torch")  # loads the library and the ones it needs
        return OneDnn(path)
    except (LookupError, OSError, AttributeError, struct.error):
        return None


@lru_cache(maxsize=4)
def computes_in(dtype: str) -> bool:
    """Whether torch hands matrix products of a dtype to oneDNN on this machine: 16-bit floats, by instruction set.

    Source: ATen/native/mkldnn/Utils.h, `mkldnn_bf16_device_check`, `mkldnn_fp16_device_check`.
    """
    if dtype not in ("bfloat16", "float16"):
        return False
    import torch

    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    check = "_is_mkldnn_bf16_supported" if dtype == "bfloat16" else "_is_mkldnn_fp16_supported"
    return bool(getattr(torch.ops.mkldnn, check)())


def on_threads(count: int, ask: Callable[[], int]) -> int:
    """Ask with another thread count than this process has."""
    import torch

    before = torch.get_num_threads()
    if before == count:
        return ask()
    torch.set_num_threads(count)
    try:
        return ask()
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=65536)
def matmul_bytes(
    src: Layout, weights: Layout, dst: Layout, *, threads: int, add_to_result: bool = False, scale_result: bool = False
) -> int | None:
    """Scratchpad of a matrix product, None where oneDNN cannot be asked.

    Source: ideep, operators/matmul.hpp, `matmul_forward::do_prepare`: layouts are given as they are, so nothing is
    reordered.
    """
    dnnl = interface()
    if dnnl is None:
        return None

    def ask() -> int:
        attributes = dnnl.attributes(add_to_result=add_to_result, scale_result=scale_result)
        layouts = [dnnl.layout(given) for given in (src, weights, dst)]
        descriptor = dnnl.descriptor("dnnl_matmul_primitive_desc_create", *layouts[:2], None, layouts[2], attributes)
        size = -1 if descriptor is None else dnnl.bytes_of(descriptor, QUERY_SCRATCHPAD)
        dnnl.destroy(descriptor)
        for layout in layouts:
            dnnl.call("dnnl_memory_desc_destroy", layout)
        dnnl.call("dnnl_primitive_attr_destroy", attributes)
        return size

    size = on_threads(threads, ask)
    return None if size < 0 else size
