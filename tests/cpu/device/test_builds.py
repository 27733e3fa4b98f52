"""The library built otherwise: for older machines, without optimisation, under the sanitisers, each header alone."""

import ctypes
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from modelnew.runtime.plan_cpu import plan_pointwise, plan_rows
from tests.builds import DEVICE
from tests.cpu.device.layouts import pointwise_layout, row_layout
from tests.cpu.device.library import FLAGS, build, launch, load

OLDER = ("-march=x86-64", "-march=x86-64-v3") if os.uname().machine == "x86_64" else ()


@pytest.mark.parametrize("machine", OLDER)
def test_older_machines(machine: str) -> None:
    """Without AVX-512, and without any AVX: the same values but for rounding."""
    library = load("rows.cpp", "-DMN_T=mn::half", machine, "-O1")
    x = torch.randn(30, 700, generator=torch.Generator().manual_seed(0)).half()
    y, shifted = torch.empty_like(x), torch.empty_like(x)
    for dims in ((0,), (1,)):
        plan = plan_rows(row_layout([y, shifted], [x], dims), 1 << 20)
        launch(library, "softmax", [y, shifted, x], plan.numbers, 2)
        assert torch.allclose(y.float(), torch.softmax(x.float(), dims[0]), rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("machine", OLDER)
def test_functions_on_older_machines(machine: str) -> None:
    """Without fused multiply-add, float functions keep their bound."""
    library = load("accuracy.cpp", machine)
    for f in range(library.function_count()):
        worst, at, wrong = ctypes.c_double(), ctypes.c_float(), ctypes.c_int64()
        library.measure_float(
            ctypes.c_int64(f),
            *(ctypes.c_uint64(v) for v in (0, 1 << 32, 20011)),
            *map(ctypes.byref, (worst, at, wrong)),
        )
        name = library.function_name(ctypes.c_int64(f)).decode()
        assert wrong.value == 0 and worst.value <= 2, f"{name}({at.value!r}): {worst.value} ulp"


HEADERS = sorted(str(p.relative_to(DEVICE)) for folder in ("common", "cpu") for p in (DEVICE / folder).rglob("*.h"))


def test_each_header_compiles_alone(tmp_path: Path) -> None:
    def complaint(header: str) -> str:
        source = tmp_path / (header.replace("/", "_") + ".cpp")
        source.write_text(f'#include "{header}"\n')
        done = subprocess.run(
            ["g++", "-std=c++17", "-fsyntax-only", "-fopenmp", "-Wall", "-Wextra", f"-I{DEVICE}", str(source)],
            capture_output=True,
            text=True,
        )
        return done.stderr

    assert len(HEADERS) > 15
    with ThreadPoolExecutor(2) as pool:
        assert [c for c in pool.map(complaint, HEADERS) if c] == []


def test_every_header_begins_as_the_emitter_expects() -> None:
    for header in HEADERS:
        lines = (DEVICE / header).read_text().splitlines()
        assert lines[0].startswith("// ")
        assert "#pragma once" in lines
        assert len(lines) <= 500
        if header.startswith("common/math/") and not lines[0].startswith("// provides: "):
            # carried with those that include it
            assert any(f'#include "{header}"' in (DEVICE / other).read_text() for other in HEADERS)


def test_sanitisers() -> None:
    """Every plan kind on buffers of exactly the right size, under AddressSanitizer and UndefinedBehaviorSanitizer."""
    flags = tuple(f for f in FLAGS if f not in ("-O3", "-shared", "-fopenmp"))
    program = build(
        "sanitised.cpp",
        "-O1",
        "-g",
        "-fopenmp",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        flags=flags,
    )
    cases = []
    layouts = [((1000,), (1,)), ((3, 1025), (1, 3)), ((40, 70), (1, 40)), ((40, 70), (5, 1))]
    layouts += [((7, 9, 30), (30, 210, 1)), ((1,), (0,)), ((60, 60), (0, 1))]
    for shape, strides in layouts:
        x = torch.empty(1 << 16).as_strided(shape, strides)
        y = torch.empty(shape)
        for cache in (1 << 25, 1):
            cases.append(("pointwise", plan_pointwise(pointwise_layout([y], [x]), cache).numbers, x, y))
        if len(shape) > 1:
            for dim in range(len(shape)):
                cases.append(("rows", plan_rows(row_layout([y], [x], (dim,)), 1 << 25).numbers, x, y))
    for x in (torch.empty(2, 20_000), torch.empty(7, 1056)):  # the latter's stores are put off
        cases.append(("rows", plan_rows(row_layout([x], [x], (1,)), 1).numbers, x, x))
    lines = []
    for family, numbers, x, y in cases:
        span = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
        lines.append(" ".join(map(str, (family, span, y.numel(), len(numbers), *numbers))))
    done = subprocess.run(
        [str(program)],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[-1] == str(len(cases))
