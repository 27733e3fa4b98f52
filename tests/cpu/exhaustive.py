"""Every one of the 2^32 floats through every scalar function, against the standard library in double.

    python -m tests.cpu.exhaustive [NAME ...]

Prints the worst error in units of the last place and where it is; exits 1 where it is above 2, or where a result is of
another kind (NaN, infinity, sign of zero) than the truth. About a minute per function on two cores.
"""

import ctypes
import sys
import time

from tests.cpu.device.library import load


def main(wanted: list[str]) -> int:
    library = load("accuracy.cpp")
    names = [library.function_name(ctypes.c_int64(f)).decode() for f in range(library.function_count())]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        print(f"unknown: {' '.join(unknown)}; there are {' '.join(names)}", file=sys.stderr)
        return 2
    bad = 0
    for number, name in enumerate(names):
        if wanted and name not in wanted:
            continue
        started = time.perf_counter()
        worst, at, wrong = ctypes.c_double(), ctypes.c_float(), ctypes.c_int64()
        library.measure_float(
            ctypes.c_int64(number),
            *(ctypes.c_uint64(v) for v in (0, 1 << 32, 1)),
            *map(ctypes.byref, (worst, at, wrong)),
        )
        verdict = "" if worst.value <= 2 and wrong.value == 0 else f"  FAILED ({wrong.value} of another kind)"
        bad += bool(verdict)
        seconds = time.perf_counter() - started
        print(f"{name:10s} {worst.value:6.3f} ulp at {at.value.hex():>15s}  {seconds:4.0f} s{verdict}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
