"""Builds the C++ of these tests against the device library and calls it on tensors."""

import ctypes
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from tests.builds import DEVICE, built_once, headers_of

HERE = Path(__file__).parent
FLAGS = (
    *(
        "-O3",
        "-march=native",
        "-std=c++17",
        "-fopenmp",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fno-tree-pre",
        "-fno-thread-jumps",
    ),
    *(
        "-fPIC",
        "-shared",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-maybe-uninitialized",
    ),  # the last: false alarms of GCC in its own intrinsics
)
CXX_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "mn::half",
    torch.bfloat16: "mn::bf16",
    torch.int8: "int8_t",
    torch.uint8: "uint8_t",
    torch.int16: "int16_t",
    torch.int32: "int32_t",
    torch.int64: "int64_t",
    torch.bool: "bool",
}


def build(source: str, *options: str, flags: Sequence[str] = FLAGS) -> Path:
    """Path of `source` (a file beside this one) compiled with `flags` and `options`."""
    compiler = shutil.which("g++")
    assert compiler, "these tests compile C++: install g++"
    command = [compiler, *flags, *options, f"-I{DEVICE}"]
    files = [HERE / source, *headers_of(DEVICE / "common", DEVICE / "cpu", HERE)]
    return built_once("device", source, command, files, lambda _: [str(HERE / source)])


def options(dtype: torch.dtype) -> tuple[str, ...]:
    """What builds the kernels for `dtype`; fully optimised for float, quickly built otherwise."""
    integral = not dtype.is_floating_point
    level = () if dtype == torch.float32 else ("-O1",)
    return (f"-DMN_T={CXX_TYPES[dtype]}", f"-DMN_INTEGRAL={int(integral)}", *level)


@cache
def load(source: str, *options: str, flags: Sequence[str] = FLAGS) -> ctypes.CDLL:
    library = ctypes.CDLL(str(build(source, *options, flags=flags)))
    if hasattr(library, "function_name"):
        library.function_name.restype = ctypes.c_char_p
        library.truth_of_float.restype = ctypes.c_double
    return library


def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def launch(
    library: ctypes.CDLL, name: str, tensors: Sequence[torch.Tensor], numbers: Sequence[int], threads: int
) -> None:
    """Call the kernel `name` on outputs, then inputs, with a plan's numbers."""
    plan = (ctypes.c_int64 * len(numbers))(*numbers)
    code = getattr(library, name)(*map(pointer, tensors), plan, ctypes.c_int64(threads))
    assert code == 0, f"{name}: error {code}"
