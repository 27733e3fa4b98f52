"""Ways to do in one step of C what every call does: recognise its tensors, allocate, hand over to a launcher.

Carried by every optimised file, so: standard library and torch only, Python 3.9, torch 2.0.
They are PyTorch's own, made for compiled code, and not promised to stay: each is tried before it is relied on, and where
one is missing or does something else, the plain way is taken.
"""

import ctypes
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch

_GUARDS: Any = getattr(getattr(torch._C, "_dynamo", None), "guards", None)
_FASTCALL = 0x80  # METH_FASTCALL: a C function that gets its arguments as an array
_INTERPRETER = ("PyBytes_AsString", "PyLong_AsVoidPtr", "PyLong_FromLong", "PyEval_SaveThread", "PyEval_RestoreThread")


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def nothing_is_like(*tensors: Any) -> bool:
    return False


def checker(tensors: Sequence[torch.Tensor]) -> Callable[..., bool]:
    """Whether other tensors, as many, are just like these: type, dtype, device, sizes, strides, requires_grad, the bits for
    negation and such; and whether they would be computed with as now: inference mode, autocast, transforms, tracing.

    False where that cannot be told. Dispatch modes are not looked at.
    """
    return _checker(tensors) if _checkers_tell() else nothing_is_like


def _checker(tensors: Sequence[torch.Tensor]) -> Callable[..., bool]:
    sizes, strides = [list(t.shape) for t in tensors], [list(t.stride()) for t in tensors]
    found: Callable[..., bool] = _GUARDS.TensorGuards(
        *tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides
    ).check
    return found


@functools.lru_cache(None)
def _checkers_tell() -> bool:
    """Whether this PyTorch's guards tell apart what a call must tell apart."""
    with torch.inference_mode(False):
        x = torch.zeros(2, 3, device="cpu")
        others: list[Any] = [x.double(), x[:1], torch.zeros(3, 2, device="cpu").t(), torch.nn.Parameter(x), None]
        others += [torch.zeros(2, 3, device="cpu", requires_grad=True), torch._neg_view(x), x.to("meta"), x.to_sparse()]
        try:
            check = _checker([x])
            told = check(x.clone()) is True and not any(check(other) for other in others)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return told and not check(x)
        except Exception:  # whatever a PyTorch without them raises
            return False


def allocator(device: torch.device) -> Callable[..., torch.Tensor]:
    """`torch.empty_strided` of shape, strides and dtype on this device."""
    quick = getattr(_GUARDS, f"_empty_strided_{device.type}", None)
    if quick is not None and (device.type == "cpu" or torch.cuda.device_count() == 1):  # it takes the current device
        try:
            made = quick((2, 1), (3, 1), torch.float32)
            if made.device == device and made.stride() == (3, 1) and made.shape == (2, 1):
                return quick  # type: ignore[no-any-return]
        except Exception:
            pass
    return lambda shape, strides, dtype: torch.empty_strided(shape, strides, dtype=dtype, device=device)


def direct(library: ctypes.CDLL, name: str, numbers: Sequence[int], lets_go: bool) -> Optional[Callable[..., int]]:
    """The library's function `name` (see call.h) as a function of tensors and a queue; None where there is no such way."""
    address = data_address()
    if address is None:
        return None
    prepared = bytes((ctypes.c_int64 * (2 + len(numbers)))(address, lets_go, *numbers))
    method = _method(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0)
    make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    function: Callable[..., int] = make(("PyCFunction_NewEx", ctypes.pythonapi))(method, prepared, None)
    return function


@functools.lru_cache(None)
def _method(address: int) -> int:
    """Address of a PyMethodDef for a C function. It is never freed: Python looks at it when the function goes."""
    method = _Method(b"launch", address, _FASTCALL, None)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(method))
    return ctypes.addressof(method)


@functools.lru_cache(None)
def data_address() -> Optional[int]:
    """Address of PyTorch's C function from a tensor to its data, where launchers can call it."""
    address = getattr(_GUARDS, "_torchinductor_pyobject_tensor_data_ptr", None)
    if type(address) is not int or sys.implementation.name != "cpython":
        return None
    program = ctypes.CDLL(None)  # what a library that is loaded can see
    if not all(hasattr(program, name) for name in _INTERPRETER):
        return None
    x = torch.zeros(2, device="cpu")[1:]
    data_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(address)
    return address if data_of(x) == x.data_ptr() else None
