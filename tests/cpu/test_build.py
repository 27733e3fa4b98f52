"""runtime/build: what a good build gives, and what it leaves behind."""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modelnew.runtime import build as build_module
from modelnew.runtime import toolchain
from modelnew.runtime.build import build

EXPORT = 'extern "C" __attribute__((visibility("default")))\n'
SEVEN = EXPORT + "int seven() { return SEVEN; }\n"
TEAM = (
    "#include <omp.h>\n"
    + EXPORT
    + """int team(int n) {
  int members = 0;
#pragma omp parallel num_threads(n) reduction(+ : members)
  members += 1;
  return members;
}
"""
)
CUDA = (
    "#include <cuda_runtime.h>\n__global__ void one(float* y) { y[threadIdx.x] = 1.0f; }\n"
    + EXPORT
    + """int launch(float* y, cudaStream_t stream) {
  one<<<1, 32, 0, stream>>>(y);
  return (int)cudaGetLastError();
}
"""
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a cache, naïve"
    monkeypatch.setenv("MODELNEW_CACHE_DIR", str(folder))
    return folder


def only_folder(cache: Path) -> Path:
    (folder,) = cache.iterdir()
    return folder


def needed(library: Path) -> list[str]:
    shown = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True)
    return re.findall(r"NEEDED.*\[(.*)\]", shown.stdout)


def test_builds_once_and_then_loads(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build("seven", SEVEN, "cpu", ["SEVEN=7"]).seven() == 7

    def compile_again(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(build_module, "_compile", compile_again)
    assert build("seven", SEVEN, "cpu", ["SEVEN=7"]).seven() == 7


def test_what_decides_the_result_names_the_folder(cache: Path) -> None:
    assert build("seven", SEVEN, "cpu", ["SEVEN=7"]).seven() == 7
    assert build("seven", SEVEN, "cpu", ["SEVEN=8"]).seven() == 8
    assert build("seven", SEVEN.replace("SEVEN;", "9;"), "cpu").seven() == 9
    assert len(list(cache.iterdir())) == 3


def test_the_folder_holds_source_and_recipe_and_is_private(cache: Path) -> None:
    build("seven", SEVEN, "cpu", ["SEVEN=7"])
    folder = only_folder(cache)
    assert sorted(file.name for file in folder.iterdir()) == ["recipe.json", "seven.cpp", "seven.so", "sha256"]
    assert (folder / "seven.cpp").read_text() == SEVEN
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["defines"] == ["SEVEN=7"] and "-O3" in recipe["flags"]
    assert folder.stat().st_mode & 0o777 == 0o700 and cache.stat().st_mode & 0o777 == 0o700


def test_leaves_the_environment_as_it_was_and_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from torch.utils import cpp_extension

    monkeypatch.setenv("CXX", "g++")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/nowhere")
    before, home = dict(os.environ), cpp_extension.CUDA_HOME
    build("seven", SEVEN, "cpu", ["SEVEN=7"])
    assert dict(os.environ) == before and home == cpp_extension.CUDA_HOME
    assert capfd.readouterr() == ("", "")


def test_finds_ninja_beside_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path(sys.executable).with_name("ninja").exists(), "this test needs pip's ninja"
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("g++", "as", "ld", "sh"):
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    monkeypatch.setenv("PATH", str(tools))
    assert build("seven", SEVEN, "cpu", ["SEVEN=7"]).seven() == 7


def test_a_compiler_of_several_words_and_with_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "my compiler"
    compiler.write_text('#!/bin/sh\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", f"'{compiler}' -DSEVEN=7")
    assert build("seven", SEVEN, "cpu").seven() == 7


def test_defines_pass_the_shell_and_ninja_unchanged() -> None:
    source = EXPORT + "const char* text() { return TEXT; }\n"
    library = build("text", source, "cpu", ["TEXT=\"a $HOME; 'b' $$ \\\\\""])
    library.text.restype = ctypes.c_char_p
    assert library.text() == rb"a $HOME; 'b' $$ " + b"\\"


def test_runs_on_the_openmp_runtime_of_pytorch() -> None:
    library = build("team", TEAM, "cpu")
    assert library.team(3) == 3
    runtimes = {path for path in toolchain.mapped_libraries() if re.search(r"/lib(gomp|iomp5|omp)[-.]", path)}
    assert runtimes == {toolchain.openmp_runtime()}


def test_links_the_runtime_of_pytorch_under_whatever_name_it_has(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's wheels rename theirs; the compiler's own libgomp.so.1 would then be a second one."""
    own = Path(toolchain.openmp_runtime()).read_bytes()
    if b"\0libgomp.so.1\0" not in own:
        pytest.skip("needs a libgomp.so.1 to rename")
    renamed = tmp_path / "libgomp-x.so"
    renamed.write_bytes(own.replace(b"\0libgomp.so.1\0", b"\0libgomp-x.so\0"))
    monkeypatch.setattr(toolchain, "openmp_runtime", lambda clang: str(renamed))
    assert build("team", TEAM, "cpu").team(2) == 2
    names = needed(only_folder(cache) / "team.so")
    assert "libgomp-x.so" in names and "libgomp.so.1" not in names


def test_which_runtime_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    site = str(Path(toolchain.torch.__file__).parents[1])
    both = ["/usr/lib/libgomp.so.1", f"{site}/torch.libs/libgomp-a34b3233.so.1.0.0"]
    conda = ["/conda/lib/libiomp5.so", "/conda/lib/libomp.so", "/conda/lib/libompx.so", "/conda/lib/libm.so"]
    for mapped, for_gcc, for_clang in ((both, both[1], ""), (conda, conda[0], conda[1]), ([], "", "")):
        monkeypatch.setattr(toolchain, "mapped_libraries", lambda mapped=mapped: mapped)
        assert (toolchain.openmp_runtime(), toolchain.openmp_runtime(clang=True)) == (for_gcc, for_clang)


def test_needs_no_library_of_pytorch(cache: Path) -> None:
    build("team", TEAM, "cpu")
    names = needed(only_folder(cache) / "team.so")
    assert names and not [name for name in names if "torch" in name or "c10" in name]


def test_inline_functions_of_two_kernels_do_not_meet() -> None:
    """A static inside a template is one per process for gcc (STB_GNU_UNIQUE), whatever library it is in."""
    source = "template <class T> int& held() { static int value = HELD; return value; }\n" + EXPORT
    source += "int read() { return held<int>(); }\n"
    first, second = (build("held", source, "cpu", [f"HELD={value}"]) for value in (1, 2))
    assert (first.read(), second.read()) == (1, 2)


def test_threads_may_build_at_once() -> None:
    answers: dict[int, int] = {}

    def work(value: int) -> None:
        answers[value] = build("seven", SEVEN, "cpu", [f"SEVEN={value % 2}"]).seven()

    threads = [threading.Thread(target=work, args=(value,)) for value in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {value: value % 2 for value in range(6)}


def test_a_warm_load_is_quick_and_does_not_import_load_inline(cache: Path) -> None:
    build("seven", SEVEN, "cpu", ["SEVEN=7"])
    script = (
        "import sys, time, torch\nfrom modelnew.runtime.build import build\nstart = time.perf_counter()\n"
        f"assert build('seven', {SEVEN!r}, 'cpu', ['SEVEN=7']).seven() == 7\n"
        "print(time.perf_counter() - start, 'torch.utils.cpp_extension' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, imported = done.stdout.split()
    assert imported == "False" and float(seconds) < 0.3


def test_a_pytorch_whose_load_inline_always_adds_headers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils import cpp_extension

    def load_inline(name: str, cpp_sources: object, cuda_sources: object = None) -> None:
        raise AssertionError("this one would compile torch/extension.h")

    monkeypatch.setattr(cpp_extension, "load_inline", load_inline)
    assert build("seven", SEVEN, "cpu", ["SEVEN=7"]).seven() == 7
    assert (only_folder(cache) / "seven.cpp").read_text() == SEVEN


@pytest.mark.skipif(not toolchain.find_nvcc(), reason="needs nvcc")
def test_a_cuda_kernel_builds_and_loads_without_a_gpu(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELNEW_CUDA_ARCHS", "9.0a")
    monkeypatch.setenv("PYTORCH_NVCC", "no-such-nvcc")
    library = build("one", CUDA, "cuda")
    assert library.launch
    folder = only_folder(cache)
    assert (folder / "one.cu").read_text() == CUDA
    assert "-gencode=arch=compute_90a,code=sm_90a" in json.loads((folder / "recipe.json").read_text())["flags"]
    assert b"sm_90a" in (folder / "one.so").read_bytes()


def test_processes_that_start_together_compile_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, compiler = tmp_path / "log", tmp_path / "g++"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *" -c "*) echo compile >>{log}; sleep 0.3;; esac\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    script = f"""if True:
        import multiprocessing, torch
        from modelnew.runtime.build import build

        def work(start):
            start.wait()
            raise SystemExit(build("seven", {SEVEN!r}, "cpu", ["SEVEN=7"]).seven())

        fork = multiprocessing.get_context("fork")  # spares eight imports of torch
        start = fork.Barrier(8)
        children = [fork.Process(target=work, args=(start,)) for _ in range(8)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        print([child.exitcode for child in children])
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{[7] * 8}\n", "")
    assert log.read_text() == "compile\n"
