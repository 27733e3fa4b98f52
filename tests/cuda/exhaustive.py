"""Every one of the 2^32 floats through every scalar function on the GPU, against float64.

    python -m tests.cuda.exhaustive [NAME ...]

Prints the worst error in units of the last place and where it is; exits 1 where it is above 2, or where a result is of
another kind (NaN, infinity, sign of zero) than the truth.
"""

import sys
import time

import torch

from tests.cuda.math_functions import TRUTHS, Worst, chosen, evaluate, floats, library, worst_error

CHUNK = 1 << 28


def worst_of_all(functions, name: str) -> Worst:
    worst = Worst(0.0, 0.0, 0)
    for first in range(0, 1 << 32, CHUNK):
        x = floats(first, CHUNK)
        found = worst_error(name, x, evaluate(functions, name, x))
        worst = max(worst, found)._replace(wrong=worst.wrong + found.wrong)
    return worst


def main(wanted: list[str]) -> int:
    unknown = [name for name in wanted if name not in TRUTHS]
    if unknown:
        print(f"unknown: {' '.join(unknown)}; there are {' '.join(TRUTHS)}", file=sys.stderr)
        return 2
    functions = library(torch.float32)
    bad = 0
    for name in chosen(wanted):
        started = time.perf_counter()
        worst = worst_of_all(functions, name)
        failed = worst.ulp > 2 or worst.wrong > 0
        bad += failed
        verdict = f"  FAILED ({worst.wrong} of another kind)" if failed else ""
        seconds = time.perf_counter() - started
        print(f"{name:10s} {worst.ulp:6.3f} ulp at {worst.at.hex():>15s}  {seconds:4.1f} s{verdict}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
