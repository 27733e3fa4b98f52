"""runtime/build: what happens when something is missing, broken, hung or killed."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from modelnew.runtime import cache as cache_module
from modelnew.runtime import toolchain
from modelnew.runtime.build import BuildFailure, build

EXPORT = 'extern "C" __attribute__((visibility("default")))\n'
SEVEN = EXPORT + "int seven() { return 7; }\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MODELNEW_CACHE_DIR", str(folder))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return folder


def failure(source: str = SEVEN, name: str = "seven") -> str:
    with pytest.raises(BuildFailure) as caught:
        build(name, source, "cpu")
    return str(caught.value)


def script(path: Path, body: str) -> str:
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)
    return str(path)


def hanging_compiler(tmp_path: Path) -> str:
    body = "trap '' TERM INT\ncase \"$*\" in *--version*) exec g++ --version;; esac\nwhile :; do sleep 1; done\n"
    return script(tmp_path / "hanging", body)


def working_in(folder: Path) -> list[str]:
    """Commands of the processes whose working folder is in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "cwd").readlink()).startswith(str(folder)):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


# -- the source is wrong ---------------------------------------------------------------------------


def test_a_syntax_error_shows_the_line_and_where_the_log_is(cache: Path) -> None:
    message = failure("int a;\nint b;\nint c = here;\nint d;\nint e;\nint f;\n")
    assert "kernel 'seven' for cpu: seven.cpp:3:9: error: 'here' was not declared" in message
    assert (
        "\n        1 | int a;\n        2 | int b;\n  >     3 | int c = here;\n        4 | int d;\n        5 | int e;\n"
        in message
    )
    log = Path(message.split("full log: ")[1].splitlines()[0])
    assert "-O3" in log.read_text() and "here" in log.with_name("seven.cpp").read_text()
    assert [entry.name for entry in cache.iterdir()] == [log.parent.name], "nothing half-built is left"


def test_compilers_are_asked_to_speak_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("CXX", script(tmp_path / "g++", '[ "$LC_ALL" = C ] || exit 1\nexec g++ "$@"\n'))
    assert build("seven", SEVEN, "cpu").seven() == 7


def test_a_function_that_is_declared_but_not_written() -> None:
    message = failure('extern "C" int lost();\n' + EXPORT + "int f() { return lost(); }\n")
    assert "undefined symbol: lost" in message and "hint: nothing defines lost" in message


def test_after_the_correction_the_failure_is_forgotten(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPLUS_INCLUDE_PATH", str(cache))
    source = "#include <late.h>\n" + SEVEN
    assert "late.h: No such file" in failure(source)
    (cache / "late.h").write_text("\n")
    assert build("seven", source, "cpu").seven() == 7
    assert not list(cache.glob("*.failed"))


# -- a tool is missing -----------------------------------------------------------------------------


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler: g++ was not found" in failure()
    monkeypatch.setenv("CXX", "no-such-g++")
    assert "CXX='no-such-g++' was not found" in failure()


def test_a_compiler_that_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", script(tmp_path / "broken", "echo cannot run >&2\nexit 1\n"))
    assert "broken --version exits with status 1: cannot run" in failure()


def test_no_ninja(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("g++", "as", "ld", "sh"):
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(sys, "executable", str(tools / "python"))
    assert "hint: install ninja: pip install ninja" in failure()


def test_no_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelnew.runtime.toolchain.find_nvcc", lambda: "")
    with pytest.raises(BuildFailure, match=r"no CUDA compiler.*\n.*pip install nvidia-cuda-nvcc"):
        build("seven", SEVEN, "cuda")


@pytest.mark.skipif(not toolchain.find_nvcc(), reason="needs nvcc")
def test_an_architecture_that_nvcc_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELNEW_CUDA_ARCHS", "199a")
    with pytest.raises(BuildFailure, match="does not know compute_199a"):
        build("seven", SEVEN, "cuda")
    monkeypatch.setenv("MODELNEW_CUDA_ARCHS", "hopper")
    with pytest.raises(BuildFailure, match="names 'hopper'"):
        build("seven", SEVEN, "cuda")


@pytest.mark.skipif(not toolchain.find_nvcc(), reason="needs nvcc")
def test_a_cuda_error_shows_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELNEW_CUDA_ARCHS", "90a")
    with pytest.raises(BuildFailure, match=r"two\.cu\(2\): error(.|\n)*>     2 \| int b = here;"):
        build("two", "int a;\nint b = here;\n", "cuda")


# -- the cache is unusable or damaged --------------------------------------------------------------


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MODELNEW_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="cannot keep kernels"):
        assert build("seven", SEVEN, "cpu").seven() == 7
    (spare,) = (tmp_path / "tmp").iterdir()
    assert spare.stat().st_mode & 0o777 == 0o700
    assert build("seven", SEVEN, "cpu").seven() == 7  # the second time from there, and without a warning


def test_a_cache_that_others_may_write_to_is_not_used(cache: Path, tmp_path: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.warns(UserWarning, match="others may write there"):
        build("seven", SEVEN, "cpu")
    assert not list(cache.iterdir()) and list((tmp_path / "tmp").iterdir())


def test_a_build_that_others_may_have_changed_is_not_loaded(cache: Path) -> None:
    build("seven", SEVEN, "cpu")
    (folder,) = cache.iterdir()
    folder.chmod(0o777)
    assert build("seven", SEVEN, "cpu").seven() == 7
    assert [(entry.name, entry.stat().st_mode & 0o777) for entry in cache.iterdir()] == [(folder.name, 0o700)]


@pytest.mark.parametrize("damage", ["truncated", "empty", "overwritten", "gone", "no checksum"])
def test_a_damaged_library_is_built_again(cache: Path, damage: str) -> None:
    build("seven", SEVEN, "cpu")
    (library,) = cache.glob("*/seven.so")
    whole = library.read_bytes()
    library.unlink()  # this process has it mapped: change a new file, not that one
    if damage in ("truncated", "empty", "overwritten"):
        library.write_bytes({"truncated": whole[:5000], "empty": b"", "overwritten": b"\0" * len(whole)}[damage])
    if damage == "no checksum":
        library.write_bytes(whole)
        library.with_name("sha256").unlink()
    assert build("seven", SEVEN, "cpu").seven() == 7
    assert (library.stat().st_size, len(list(cache.iterdir()))) == (len(whole), 1)


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MODELNEW_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert Path(cache_module.cache_dir()).is_absolute()  # no HOME: the user database, or the folder for temporary files
    monkeypatch.setenv("HOME", "/home/ada")
    assert cache_module.cache_dir() == "/home/ada/.cache/modelnew"
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
    assert cache_module.cache_dir() == "/fast/modelnew"
    monkeypatch.setenv("MODELNEW_CACHE_DIR", "~/kernels")
    assert cache_module.cache_dir() == "/home/ada/kernels"


def test_a_home_that_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MODELNEW_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(
        os.path, "expanduser", lambda path: path
    )  # what it does for a user that the system does not list
    assert build("seven", SEVEN, "cpu").seven() == 7
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == [f"modelnew-{os.geteuid()}"]


# -- a builder hangs or dies -----------------------------------------------------------------------


def test_a_hung_compiler_is_stopped(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", hanging_compiler(tmp_path))
    monkeypatch.setenv("MODELNEW_BUILD_TIMEOUT_S", "1")
    start = time.monotonic()
    message = failure()
    assert "stopped after 1 s" in message and "hint: if it is only slow" in message
    assert time.monotonic() - start < 10 and not working_in(cache) and not list(cache.glob("*.tmp-*"))


def test_interrupting_a_build_leaves_nothing(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", hanging_compiler(tmp_path))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            build("seven", SEVEN, "cpu")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not working_in(cache) and not list(cache.iterdir())


def test_a_killed_builder_does_not_block_the_next(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "g++"
    script(compiler, 'case "$*" in *--version*) ;; *) sleep 20;; esac\nexec g++ "$@"\n')
    monkeypatch.setenv("CXX", str(compiler))
    command = f"import torch\nfrom modelnew.runtime.build import build\nbuild('seven', {SEVEN!r}, 'cpu')"
    with subprocess.Popen([sys.executable, "-c", command]) as child:
        while not (working_in(cache) or child.poll() is not None):
            time.sleep(0.02)
        child.kill()
    assert list(cache.glob("*.tmp-*")) and list(cache.glob("*.lock"))
    script(compiler, 'exec g++ "$@"\n')  # same path and version, so the same build
    start = time.monotonic()
    assert build("seven", SEVEN, "cpu").seven() == 7
    assert time.monotonic() - start < 10
    assert [entry.name.split("-")[0] for entry in cache.iterdir()] == ["seven"], "what it left is cleaned up"
    assert not working_in(cache)


def test_what_other_killed_builders_left_goes_when_it_is_old(cache: Path) -> None:
    cache.mkdir()
    old, young = cache / "other-1.tmp-x", cache / "other-2.tmp-y"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (0, 0))
    build("seven", SEVEN, "cpu")
    assert young.exists() and not old.exists()


def test_a_lock_that_is_never_given_back(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("seven", SEVEN, "cpu")
    (folder,) = cache.iterdir()
    shutil.rmtree(folder)
    monkeypatch.setenv("MODELNEW_BUILD_TIMEOUT_S", "3")
    with folder.with_suffix(".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.warns(UserWarning, match="not waiting for it"):
            assert build("seven", SEVEN, "cpu").seven() == 7


def test_a_file_system_without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert build("seven", SEVEN, "cpu").seven() == 7


def test_a_time_limit_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELNEW_BUILD_TIMEOUT_S", "soon")
    assert "MODELNEW_BUILD_TIMEOUT_S is 'soon'" in failure()
