"""Products of random shapes and layouts, on every kind of data, beside PyTorch's fp32 product; errors against float64.

    python -m tests.cuda.product_shapes [--shapes 10000] [--seed 1] [--kind product_ampere] [--write FILE]

Prints for each kind of data the largest errors, on how many shapes ours was the larger one, and on how many it was so by
more than the halves alone explain: above 4 eps of the terms' sum, or one eps in the mean. Exits 1 where an error is above
both the library's and twice that (thrice in the mean: some results are one number).
"""

import argparse
import json
import random
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import torch

from tests.cuda import product_kernels
from tests.cuda.product_data import EPS, NAMES, data, errors
from tests.cuda.product_kernels import NOT_COVERED, build_all, poisoned, run

TOPS = (12, 12, 13)  # sizes are up to two to the power of these
UNCOVERED = ("off by one", "every second")
MOST_WORK = 1 << 32


class Drawn(NamedTuple):
    name: str
    sizes: tuple[int, int, int]
    x_lies: str
    w_lies: str
    tile: int
    splits: int


class Found(NamedTuple):
    """Largest and rms error of ours and of PyTorch's product, in eps of the terms' sum."""

    drawn: Drawn
    ours: tuple[float, float]
    theirs: tuple[float, float]

    def above(self, largest: float, rms: float) -> bool:
        """Whether an error is larger than the library's and than this."""
        return not (self.ours[0] <= max(self.theirs[0], largest) and self.ours[1] <= max(self.theirs[1], rms))


def draw(numbers: random.Random) -> Drawn:
    while True:
        m, n, k = (int(2 ** numbers.uniform(0, top)) for top in TOPS)
        if numbers.random() < 0.02:
            k *= 8
        if m * n * k <= MOST_WORK:
            break
    x_lies = numbers.choice(["contiguous", "contiguous", "transposed", "apart", "every second", "off by one"])
    w_lies = numbers.choice(["contiguous", "apart", "a part of its columns", "across", "across, apart", *UNCOVERED])
    if w_lies in UNCOVERED and numbers.random() < 0.8:
        w_lies = numbers.choice(["contiguous", "across"])
    tile, splits = numbers.choice([0, 0, 16, 64, 128]), numbers.choice([0, 0, 0, 1, 2, 3, 7])
    return Drawn(numbers.choice(NAMES), (m, n, k), x_lies, w_lies, tile, splits)


def laid(t: torch.Tensor, lies: str, pitch: int) -> torch.Tensor:
    """The same values, otherwise in memory; `pitch`: elements that rows begin at a multiple of."""
    rows, columns = t.shape
    if lies.startswith("across"):
        return laid(t.t(), lies.removeprefix("across").removeprefix(", "), pitch).t()
    wide = -(-columns // pitch) * pitch
    if lies == "transposed":
        return t.t().contiguous().t()
    if lies == "every second":
        place = torch.full((rows, 2 * columns), torch.nan, device=t.device)[:, ::2]
    elif lies == "off by one":
        place = torch.full((rows * wide + 1,), torch.nan, device=t.device)[1:].view(rows, wide)[:, :columns]
    elif lies == "apart":
        place = torch.full((rows, wide + 3 * pitch), torch.nan, device=t.device)[:, :columns]
    elif lies == "a part of its columns":
        place = torch.full((rows, wide + 2 * pitch), torch.nan, device=t.device)[:, pitch : pitch + columns]
    else:
        place = torch.full((rows, wide), torch.nan, device=t.device)[:, :columns]
    place.copy_(t)
    return place


def covered(w: torch.Tensor) -> bool:
    """What the copy engine can bring."""
    return 1 in w.stride() and w.stride(int(w.stride(1) != 1)) % 4 == 0 and w.data_ptr() % 16 == 0


def one(drawn: Drawn) -> Found | None:
    """None where the kernel does not cover the layout, and says so."""
    x, w = data(drawn.name, *drawn.sizes)
    x, w = laid(x, drawn.x_lies, 1), laid(w, drawn.w_lies, 4)
    y = poisoned(x.shape[0], w.shape[0])
    code = run("plain", [y], x, w, tile=drawn.tile, splits=drawn.splits)
    if not covered(w):
        assert code == NOT_COVERED and bool((y == -7777).all()), (drawn, code)
        return None
    assert code == 0, (drawn, code)
    ours, theirs = errors(y, x, w), errors(x @ w.T, x, w)
    return Found(drawn, (ours[0] / EPS, ours[1] / EPS), (theirs[0] / EPS, theirs[1] / EPS))


def lines(found: list[Found]) -> list[dict[str, object]]:
    """For each kind of data, and for all."""
    by_name: dict[str, list[Found]] = defaultdict(list)
    for each in found:
        by_name[each.drawn.name].append(each)
        by_name["all"].append(each)
    table = []
    for name in (*NAMES, "all"):
        some = by_name[name]
        if not some:
            continue
        long = [f for f in some if f.drawn.sizes[2] >= 256]
        table.append(
            {
                "data": name,
                "shapes": len(some),
                "largest": [max(f.ours[0] for f in some), max(f.theirs[0] for f in some)],
                "rms": [max(f.ours[1] for f in some), max(f.theirs[1] for f in some)],
                "larger rms than the library's": sum(f.ours[1] > f.theirs[1] for f in some),
                "of k >= 256": [sum(f.ours[1] > f.theirs[1] for f in long), len(long)],
                "larger maximum than the library's": sum(f.ours[0] > f.theirs[0] for f in some),
                "above 4, 1 eps and the library's": sum(f.above(4, 1) for f in some),
                "above 8, 3 eps and the library's": sum(f.above(8, 3) for f in some),
            }
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=product_kernels.TILES, default=product_kernels.HOPPER)
    parser.add_argument("--write", type=Path, help="where the table goes as JSON")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(options.seed)
    product_kernels.chosen = options.kind
    build_all(options.kind)
    numbers = random.Random(options.seed)
    found, left = [], 0
    while len(found) < options.shapes:
        result = one(draw(numbers))
        if result is None:
            left += 1
            continue
        found.append(result)
        if result.above(4, 1):
            print(result, flush=True)
    table = lines(found)
    print(
        f"{left} shapes are not covered, and said so; errors in eps of the terms' sum: ours, PyTorch's fp32 product's"
    )
    for row in table:
        print("  ".join(f"{key} {_short(value)}" for key, value in row.items()))
    if options.write:
        about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "seed": options.seed, "left": left}
        options.write.write_text(json.dumps({**about, "rows": table}, indent=1) + "\n")
    return int(any(each.above(8, 3) for each in found))


def _short(value: object) -> str:
    if isinstance(value, list):
        return " / ".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
