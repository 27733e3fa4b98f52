"""Compiles the CUDA side with nvcc and looks at what comes out; no GPU is needed.

    python tests/compile_gate.py                          # all of the library; CI compiles the quick ones
    python tests/compile_gate.py --arch sm_90a FILE.cu    # any other source, any architecture
    python tests/compile_gate.py --write                  # renews benchmarks/results/cuda-instructions.json

It fails on a warning, on products of warpgroups that ptxas serialises, on registers spilled to memory, on arrays in
local memory, on a kernel of contiguous elements or rows whose loads or stores of 16-byte vectors are not single
instructions, and on instruction counts above the committed ones.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DEVICE = ROOT / "src" / "modelnew" / "device"
TABLE = ROOT / "benchmarks" / "results" / "cuda-instructions.json"
ARCHS = ("sm_75", "sm_80", "sm_90a", "sm_100", "sm_120")
TABLE_ARCH = "sm_90a"
SLACK = 1.1  # another nvcc may schedule a little differently

ACTIVATIONS = """
#include "common/math/activations.h"
#include "cuda/pointwise.cuh"
using T = MN_T;
using C = mn::compute_t<T>;
#define KERNEL(name, expression)                                                                   \\
  struct name##_body {                                                                             \\
    MN_FN auto operator()(C x) const { return mn::values(expression); }                            \\
  };                                                                                               \\
  MN_EXPORT int launch_##name(void* y, const void* x, const int64_t* plan, mn::queue queue) {               \\
    return mn::pointwise<name##_body, mn::types<T>, mn::types<T>>({y}, {x}, plan, queue);          \\
  }
KERNEL(copy, x)
KERNEL(hardsigmoid, mn::minimum(mn::maximum(x + C(3), C(0)), C(6)) * C(1.0 / 6))
KERNEL(sigmoid, mn::sigmoid<T>(x))
struct gelu_body {
  template <class Form>
  MN_FN auto operator()(Form& form, C x) const { return mn::values(mn::gelu<T>(form, x)); }
};
MN_EXPORT int launch_gelu(void* y, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::pointwise<gelu_body, mn::types<T>, mn::types<T>>({y}, {x}, plan, queue);
}
"""

PRODUCT = """
#include "common/topped_exponentials.h"
#include "common/math/activations.h"
#include "common/math/log.h"
#include "cuda/product_hopper.cuh"
struct gelu_body {
  MN_FN auto operator()(float p, float bias) const { return mn::values(mn::gelu(p + bias)); }
};
struct sigmoid_body {
  MN_FN auto operator()(float p, float bias) const { return mn::sigmoid(p + bias); }
};
struct mean {
  MN_FN auto operator()(float s, int64_t count) const { return mn::values(s / float(count)); }
};
struct exponential_body {
  MN_FN auto operator()(float p, float bias) const { return mn::topped_exponentials<float>::of(p + bias); }
};
struct logarithm {
  MN_FN auto operator()(mn::topped<float> s, int64_t) const { return mn::values(mn::log(s.total) + s.top); }
};
using Ins = mn::types<float, float, float>;
MN_EXPORT int linear_gelu(void* y, const void* x, const void* w, const void* b, void* hints, const int64_t* plan,
                          mn::queue queue) {
  return mn::product<gelu_body, mn::types<float>, Ins>({y}, {x, w, b}, hints, plan, queue);
}
MN_EXPORT int linear_sigmoid_mean(void* y, const void* x, const void* w, const void* b, void* hints,
                                  const int64_t* plan, mn::queue queue) {
  return mn::product_rows<sigmoid_body, mn::sum<float>, mean, mn::types<float>, Ins>({y}, {x, w, b}, hints, plan,
                                                                                     queue);
}
MN_EXPORT int linear_logsumexp(void* y, const void* x, const void* w, const void* b, void* hints, const int64_t* plan,
                               mn::queue queue) {
  return mn::product_rows<exponential_body, mn::topped_exponentials<float>, logarithm, mn::types<float>, Ins>(
      {y}, {x, w, b}, hints, plan, queue);
}
"""


class Case(NamedTuple):
    name: str
    source: str
    defines: tuple[str, ...]
    archs: tuple[str, ...]
    quick: bool = True  # CI compiles it; of what others show as well, it compiles nothing


class Kernel(NamedTuple):
    """What ptxas says of one kernel."""

    name: str
    registers: int
    stack: int  # bytes of local memory
    spilled: int  # bytes


class Compiled(NamedTuple):
    case: str
    arch: str
    seconds: float
    kernels: list[Kernel]
    complaints: list[str]
    instructions: dict[str, float]  # contiguous kernel → instructions per element up to its last store


def default_cases() -> list[Case]:
    sys.path.insert(0, str(ROOT))
    from tests.simt.programs import LAYERNORM, MIXED, NORM, SOFTMAX

    beside_examples = ("sm_75", TABLE_ARCH, "sm_120")  # those are compiled for the others
    cases = [Case("mixed types", MIXED, (), ("sm_75", "sm_120"))]
    for stored in ("float", "mn::half", "mn::bf16"):
        cases.append(Case(f"activations {stored}", ACTIVATIONS, (f"MN_T={stored}",), (TABLE_ARCH,), stored == "float"))
    cases.append(Case("softmax float", SOFTMAX, ("MN_T=float",), beside_examples))
    cases.append(Case("layernorm float", LAYERNORM, ("MN_T=float",), (TABLE_ARCH,)))
    cases.append(Case("norm float", NORM, ("MN_T=float",), (TABLE_ARCH,), quick=False))
    cases.append(Case("softmax half", SOFTMAX, ("MN_T=mn::half",), (TABLE_ARCH,), quick=False))
    for tile in (16, 64, 128):
        cases.append(Case(f"product {tile}", PRODUCT, (f"MN_BATCH_TILE={tile}",), (TABLE_ARCH,), quick=tile == 128))
    across = ("MN_BATCH_TILE=128", "MN_WEIGHT_ACROSS=1")
    cases.append(Case("product across", PRODUCT, across, (TABLE_ARCH,), quick=False))
    cases.append(Case("product elsewhere", PRODUCT, ("MN_BATCH_TILE=128",), ("sm_100",), quick=False))
    ampere = PRODUCT.replace("product_hopper", "product_ampere")
    cases.append(Case("product ampere 16", ampere, ("MN_BATCH_TILE=16",), ("sm_120",), quick=False))
    cases.append(Case("product ampere 64", ampere, ("MN_BATCH_TILE=64",), ("sm_89",)))
    few = PRODUCT.replace("product_hopper", "product_few").replace("mn::types<float", "mn::types<MN_T")
    few = few.replace("mn::types<MN_T, float, float>", "mn::types<MN_T, MN_T, MN_T>")
    for stored, tile, lies, arch in (
        ("float", 8, "", TABLE_ARCH),
        ("mn::half", 8, " across", TABLE_ARCH),
        ("mn::bf16", 4, "", "sm_75"),
        ("float", 8, " across", "sm_120"),
    ):
        macros = (f"MN_T={stored}", f"MN_BATCH_TILE={tile}", *(["MN_WEIGHT_ACROSS=1"] if lies else []))
        cases.append(
            Case(f"few rows {tile}{lies} {stored}", few, macros, (arch,), quick=not lies and arch == TABLE_ARCH)
        )
    return cases


def compile_case(case: Case, arch: str, folder: Path) -> Compiled:
    stem = re.sub(r"\W+", "-", f"{case.name}-{arch}")
    source, cubin = folder / f"{stem}.cu", folder / f"{stem}.cubin"
    source.write_text(case.source)
    number = arch.removeprefix("sm_")
    command = [
        find("nvcc"),
        "-std=c++17",
        "-O3",
        "-fmad=false",
        "-cubin",
        f"-gencode=arch=compute_{number},code={arch}",
        "-Xptxas",
        "-v,-warn-spills",
    ]
    command += [f"-I{DEVICE}", *(f"-D{define}" for define in case.defines), str(source), "-o", str(cubin)]
    began = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    said = result.stdout + result.stderr
    if result.returncode:
        errors = [line for line in said.splitlines() if "error" in line]
        return Compiled(case.name, arch, seconds, [], errors or [said], {})
    kernels = read_ptxas(said)
    complaints = [line for line in said.splitlines() if re.search("warning|Performance Loss", line, re.IGNORECASE)]
    for kernel in kernels:
        if kernel.stack or kernel.spilled:
            complaints.append(f"{kernel.name}: {kernel.stack} bytes of local memory, {kernel.spilled} spilled")
    counts = {}
    for name, lines in disassemble(cubin).items():
        rows = is_row_of_a_warp(name)
        if rows or (name.startswith(("pointwise_contiguous", "pointwise_rows")) and wide_types(name)):
            complaints += [f"{name}: no {op} of 128 bits" for op in missing_wide(name, lines)]
        if name.startswith("pointwise_contiguous") and wide_types(name):
            counts[name] = round(per_element(name, lines), 2)
        if rows:
            counts[name] = round(until_stored(name, lines), 2)
    return Compiled(case.name, arch, seconds, kernels, complaints, counts)


def read_ptxas(said: str) -> list[Kernel]:
    found = re.findall(
        r"Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores.*?\n.*?Used (\d+) registers",
        said,
        re.DOTALL,
    )
    return [Kernel(readable(name), int(used), int(stack), int(spilled)) for name, stack, spilled, used in found]


def readable(mangled: str) -> str:
    """`pointwise_contiguous sigmoid V4 U4 f:f`: kernel, body, the integers among its arguments, its types."""
    names = re.findall(r"(?<=\d)([a-z][a-z_]*?)(?:_body)?(?=I\d|NS_|L|E)", mangled)
    kernel = re.search(r"(pointwise_[a-z]+|rows_[a-z]+)", mangled)
    body = re.search(r"\d([a-z][a-z0-9_]*?)_body", mangled)
    numbers = re.findall(r"L[ib](\d+)E", mangled)
    label = kernel.group(1) if kernel else (names[0] if names else mangled)
    return " ".join([label, body.group(1) if body else "", *numbers]).strip()


def disassemble(cubin: Path) -> dict[str, list[str]]:
    """Instructions of each kernel, in order. Empty where there is no disassembler."""
    tool, helper = find("cuobjdump", needed=False), find("nvdisasm", needed=False)
    if not (tool and helper):
        return {}
    environment = {**os.environ, "PATH": f"{Path(helper).parent}:{os.environ['PATH']}"}  # cuobjdump calls the other
    command = [tool, "--dump-sass", str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    kernels: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if "Function :" in line:
            lines = kernels.setdefault(readable(line.split(":", 1)[1].strip()), [])
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            lines.append(match.group(1))
    return kernels


def wide_types(name: str) -> bool:
    """Copies of one type: there, every access of a whole vector is one of 16 bytes."""
    return name.split()[1] in {"copy", "hardsigmoid", "sigmoid", "gelu"}


def is_row_of_a_warp(name: str) -> bool:
    """A warp holds each row in registers, all of it whole vectors; bodies whose operands are all of one type."""
    return bool(re.fullmatch(r"rows_registers (softmax|layernorm) \d+ \d+ 1 1 32", name))


def missing_wide(name: str, lines: list[str]) -> list[str]:
    return [op for op in ("LDG?", "STG?") if not any(re.search(rf"\b{op}\.E\S*\.128", line) for line in lines)]


def per_element(name: str, lines: list[str]) -> float:
    """Instructions per element of a thread's vectors in a block whose tile is whole: up to the kernel's first branch, and
    from there to the end of the part that has no loop, which is the last."""
    branch = next(i for i, line in enumerate(lines) if re.search(r"\bBRA\b", line))
    exits = [i for i, line in enumerate(lines) if line.startswith("EXIT")]
    vector, vectors = (int(n) for n in name.split()[2:4])
    return (branch + 1 + exits[-1] - exits[-2]) / (vector * vectors)


def until_stored(name: str, lines: list[str]) -> float:
    """Instructions from a kernel's beginning to its last 16-byte store, per element of a thread's vectors."""
    last = max(i for i, line in enumerate(lines) if re.search(r"\bSTG?\.E\S*\.128", line))
    vector, vectors = (int(n) for n in name.split()[2:4])
    return (last + 1) / (vector * vectors)


def find(tool: str, needed: bool = True) -> str:
    places = [Path(home) / "bin" for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    places += [Path(p) / "nvidia" / "cu13" / "bin" for p in sys.path]
    found = shutil.which(tool) or next((str(p / tool) for p in places if (p / tool).exists()), "")
    if needed and not found:
        raise SystemExit(f"compile gate: no {tool} in PATH, CUDA_HOME or the nvidia-cuda packages")
    return found


def check(cases: list[Case], archs: tuple[str, ...] | None = None) -> list[Compiled]:
    """Compiles every case for its architectures, as many at a time as there are cores."""
    jobs = [(case, arch) for case in cases for arch in (archs or case.archs)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda job: compile_case(*job, Path(folder)), jobs))


def table_of(results: list[Compiled]) -> dict[str, float]:
    rows = {}
    for result in results:
        if result.arch == TABLE_ARCH:
            for name, count in result.instructions.items():
                rows[f"{name.split()[1]}, {result.case.split()[-1].removeprefix('mn::')}"] = count
    return rows


def complaints_of(results: list[Compiled]) -> list[str]:
    return [f"{r.case} for {r.arch}: {said}" for r in results for said in r.complaints]


def above_table(found: dict[str, float]) -> list[str]:
    committed = json.loads(TABLE.read_text())["instructions per element"] if TABLE.exists() else {}
    worse = [k for k in found if k in committed and found[k] > committed[k] * SLACK]
    return [f"{k}: {found[k]} instructions per element, {committed[k]} before" for k in worse]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "files", nargs="*", type=Path, help="CUDA sources; the library's own test bodies where none is given"
    )
    parser.add_argument("--only", default="", help="of the library's own test bodies, those whose name has this in it")
    parser.add_argument(
        "--arch",
        action="append",
        help=f"architecture, may be repeated (default: those of {', '.join(ARCHS)} that CI takes)",
    )
    parser.add_argument("--define", action="append", default=[], help="macro for the given files, such as MN_T=float")
    parser.add_argument("--write", action="store_true", help="renew the committed table")
    options = parser.parse_args()
    given = [Case(f.stem, f.read_text(), tuple(options.define), ARCHS) for f in options.files]
    cases = given or [case for case in default_cases() if options.only in case.name]
    results = check(cases, tuple(options.arch) if options.arch else None)
    complaints = complaints_of(results)
    for r in results:
        most = max((k.registers for k in r.kernels), default=0)
        print(f"{r.case:24} {r.arch:7} {r.seconds:5.1f} s  {len(r.kernels)} kernels, at most {most} registers")
    found = table_of(results)
    for name, count in found.items():
        print(f"{name:24} {count:6.2f} instructions per element")
    if options.write:
        TABLE.write_text(json.dumps({"architecture": TABLE_ARCH, "instructions per element": found}, indent=2) + "\n")
    elif not options.files:
        complaints += above_table(found)
    print("\n".join(complaints) if complaints else "no spills, no local memory, no warnings")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
