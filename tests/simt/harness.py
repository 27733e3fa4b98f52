"""Runs generated CUDA source on the CPU, thread by thread, under AddressSanitizer and UBSan.

    program = Program(cuda_source, ["MN_T=float"])
    program.launch("launch_sigmoid", [y], [x], plan)      # fills y; raises SimtError

Tensors are torch tensors or numpy arrays in CPU memory, of any strides; they keep their place within a cache line.
"""

import ctypes
import os
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modelnew.runtime.layout import Plan
from tests.builds import DEVICE, Inputs, built_once, headers_of

HERE = Path(__file__).parent
ORDERS = (0, 1, 7)  # threads in turn, backwards, shuffled
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
FLAGS = (
    "-x",
    "c++",
    "-std=c++17",
    "-O0",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-Wno-unused-but-set-parameter",
)  # packs that happen to be empty


class SimtError(Exception):
    """A launch went wrong: what the emulated device or a sanitizer said."""


def build(source: str, defines: Sequence[str] = (), device: Path = DEVICE) -> Path:
    """Compiles `source` with the driver, once per content. Returns the program's path."""
    command = [os.environ.get("CXX", "g++"), *FLAGS, *SANITIZERS, *(f"-D{define}" for define in defines)]
    command += [f"-I{HERE / 'include'}", f"-I{device}", "-rdynamic"]
    files = [*headers_of(HERE / "include", device), HERE / "requests.h", HERE / "driver.cpp"]
    inputs: Inputs = lambda text: [f'-DSIMT_SOURCE="{text}"', str(HERE / "driver.cpp"), "-ldl"]  # noqa: E731
    return built_once("simt", source, command, files, inputs)


class Program:
    """The launchers of one source, in a process of their own. A launch that fails ends the process; the next starts anew."""

    def __init__(
        self,
        source: str,
        defines: Sequence[str] = (),
        device: Path = DEVICE,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.environment = {**os.environ, **environment}
        self.process: subprocess.Popen[bytes] | None = None
        self.command: list[str | Path] = [build(source, defines, device)]

    def launch(self, name: str, outputs: Sequence[Any], inputs: Sequence[Any], plan: Plan, order: int = 0) -> None:
        """Calls launcher `name`. `order`: which threads run first (see ORDERS).

        Raises SimtError: the launch failed, a sanitizer found something, an output byte was written twice or never, an
        input was changed.
        """
        text = name.encode()
        request = [struct.pack("<q", len(text)), text, struct.pack("<3q", order, len(outputs), len(inputs))]
        spans = [_span(tensor) for tensor in (*outputs, *inputs)]
        for pointer, span, written in spans[: len(outputs)]:
            request.append(struct.pack("<3q", span, pointer % 512, written))
        for pointer, span, _ in spans[len(outputs) :]:
            request += [struct.pack("<2q", span, pointer % 512), ctypes.string_at(pointer, span)]
        numbers = plan.numbers
        request.append(struct.pack(f"<{len(numbers) + 2}q", len(numbers), *numbers, plan.workspace))
        replies = self._ask(b"".join(request), [span for _, span, _ in spans[: len(outputs)]])
        for (pointer, span, _), reply in zip(spans, replies, strict=False):
            ctypes.memmove(pointer, reply, span)

    def _ask(self, request: bytes, sizes: Sequence[int]) -> list[bytes]:
        if self.process is None:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.environment,
            )
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(request)
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        head = self.process.stdout.read(8)
        if len(head) < 8:
            _, errors = self.process.communicate()
            self.process = None
            raise SimtError(errors.decode(errors="replace") or "the program ended without a word")
        said = self.process.stdout.read(struct.unpack("<q", head)[0]).decode()
        replies = [self.process.stdout.read(size) for size in sizes]
        if said:
            self.close()
            raise SimtError(said)
        return replies

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _span(tensor: Any) -> tuple[int, int, int]:
    """Address, bytes from the first element to the last, bytes of the elements."""
    if hasattr(tensor, "data_ptr"):
        size = tensor.element_size()
        steps = [(n - 1) * s * size for n, s in zip(tensor.shape, tensor.stride(), strict=True)]
        return tensor.data_ptr(), sum(steps) + size, tensor.numel() * size
    steps = [(n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True)]
    return tensor.ctypes.data, sum(steps) + tensor.itemsize, tensor.size * tensor.itemsize
