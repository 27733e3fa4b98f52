"""The fastest copy of a tensor that this GPU makes: PyTorch's, or the best of several kernels that only copy."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable

import torch

from modelnew.runtime.build import build

THREADS = (128, 256, 512)
VECTORS = (1, 2, 4, 8)  # of 16 bytes, per thread
_PERSISTENT = 16  # blocks per multiprocessor where blocks walk over the tensor

_SOURCE = """
#include <cuda_runtime.h>
#include <stdint.h>

template <int U>
__global__ void copy(uint4* y, const uint4* x, int64_t vectors) {
  for (int64_t first = int64_t(blockIdx.x) * (U * blockDim.x) + threadIdx.x; first < vectors;
       first += int64_t(gridDim.x) * (U * blockDim.x)) {
    uint4 held[U];
#pragma unroll
    for (int u = 0; u < U; ++u)
      if (first + u * blockDim.x < vectors) held[u] = x[first + u * blockDim.x];
#pragma unroll
    for (int u = 0; u < U; ++u)
      if (first + u * blockDim.x < vectors) y[first + u * blockDim.x] = held[u];
  }
}

template <int U>
int start(void* y, const void* x, int64_t bytes, int threads, int64_t most, cudaStream_t stream) {
  const int64_t vectors = bytes / 16, tile = int64_t(U) * threads, tiles = (vectors + tile - 1) / tile;
  copy<U><<<static_cast<unsigned>(tiles < most ? tiles : most), threads, 0, stream>>>(
      static_cast<uint4*>(y), static_cast<const uint4*>(x), vectors);
  return cudaGetLastError();
}

extern "C" __attribute__((visibility("default"))) int launch_copy(void* y, const void* x, int64_t bytes, int64_t threads,
                                                                  int64_t vectors, int64_t most, cudaStream_t stream) {
  const int t = static_cast<int>(threads);
  switch (vectors) {
    case 1: return start<1>(y, x, bytes, t, most, stream);
    case 2: return start<2>(y, x, bytes, t, most, stream);
    case 4: return start<4>(y, x, bytes, t, most, stream);
    default: return start<8>(y, x, bytes, t, most, stream);
  }
}
"""


class Copier:
    """Finds the best copy at each size once, and gives it as a function."""

    def __init__(self) -> None:
        self.launch = build("copy", _SOURCE, "cuda").launch_copy
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self.launch.argtypes = [pointer, pointer, *[number] * 4, pointer]
        self.blocks = _PERSISTENT * torch.cuda.get_device_properties(0).multi_processor_count
        self.best: dict[int, tuple[str, Callable[[torch.Tensor, torch.Tensor], None], float]] = {}

    def copy_of(self, x: torch.Tensor) -> Callable[[], torch.Tensor]:
        """A function that copies `x` (a whole number of 16-byte vectors of it) into a fresh tensor, the fastest way."""
        size = x.numel() * x.element_size()
        if size not in self.best:
            self.best[size] = self._fastest(x)
        copy = self.best[size][1]

        def fresh() -> torch.Tensor:
            y = torch.empty_like(x)
            copy(y, x)
            return y

        return fresh

    def as_dict(self) -> list[dict[str, object]]:
        return [
            {"bytes": size, "kernel": name, "seconds": seconds, "bytes_per_s": 2 * size / seconds}
            for size, (name, _, seconds) in self.best.items()
        ]

    def _ways(self) -> dict[str, Callable[[torch.Tensor, torch.Tensor], None]]:
        def way(threads: int, vectors: int, most: int) -> Callable[[torch.Tensor, torch.Tensor], None]:
            def copy(y: torch.Tensor, x: torch.Tensor) -> None:
                size = x.numel() * x.element_size() // 16 * 16
                stream = torch.cuda.current_stream().cuda_stream
                if self.launch(y.data_ptr(), x.data_ptr(), size, threads, vectors, most, stream):
                    raise RuntimeError("the copy kernel could not be launched")

            return copy

        ways: dict[str, Callable[[torch.Tensor, torch.Tensor], None]] = {"Tensor.copy_": lambda y, x: y.copy_(x)}
        for threads in THREADS:
            for vectors in VECTORS:
                ways[f"{threads} threads, {vectors} vectors each"] = way(threads, vectors, (1 << 31) - 1)
            ways[f"{threads} threads, 4 vectors each, persistent"] = way(threads, 4, self.blocks * 256 // threads)
        return ways

    def _fastest(self, x: torch.Tensor) -> tuple[str, Callable[[torch.Tensor, torch.Tensor], None], float]:
        y = torch.empty_like(x)
        ways = self._ways()
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(9):
            for name, copy in ways.items():
                before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                before.record()
                copy(y, x)
                after.record()
                torch.cuda.synchronize()
                times[name].append(before.elapsed_time(after) * 1e-3)
        seconds = {name: statistics.median(samples) for name, samples in times.items()}
        best = min(seconds, key=lambda name: seconds[name])
        return best, ways[best], seconds[best]
