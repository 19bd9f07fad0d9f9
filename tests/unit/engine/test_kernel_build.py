"""The kernels are compiled once, safely, or one line says why they are not."""

import ctypes
import logging
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from worker.engine import kernel_build, kernels, loader
from worker.engine.kernel_build import KernelsUnavailable, build
from worker.engine.loader import load_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compiled on Linux only")

SOURCE = """
extern "C" int sum_to(int n) {
  int sum = 0;
#pragma omp parallel for reduction(+ : sum)
  for (int i = 1; i <= n; i++) sum += i;
  return sum;
}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The cache's folder, of a user whose kernels take no time to compile."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "kernels.cpp"
    source.write_text(SOURCE)
    monkeypatch.setattr(kernel_build, "SOURCES", (source,))
    kernels.load.cache_clear()
    yield tmp_path / "cache" / "baton"
    kernels.load.cache_clear()


@pytest.fixture
def fake_compiler(tmp_path, monkeypatch):
    """Put a shell script where the compiler would be found."""

    def put(script):
        directory = tmp_path / "bin"
        directory.mkdir()
        path = directory / "c++"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(directory))

    return put


@pytest.fixture
def needs_compiler():
    if not any(kernel_build.shutil.which(name) for name in kernel_build.COMPILERS):
        pytest.skip("no compiler")


def refusal():
    with pytest.raises(KernelsUnavailable) as caught:
        build()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("needs_compiler")
def test_what_was_compiled_is_used_again(folder, monkeypatch):
    path = build()
    assert ctypes.CDLL(str(path)).sum_to(100) == 5050
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.iterdir()) == [path], "something is left over"
    monkeypatch.setattr(kernel_build, "_compile", None)
    assert build() == path


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("what", ["source", "flags", "processor"])
def test_another_source_or_flag_or_processor_gets_a_library_of_its_own(what, monkeypatch):
    path = build()
    if what == "source":
        kernel_build.SOURCES[0].write_text(SOURCE + "\n")
    if what == "processor":
        monkeypatch.setattr(kernel_build, "_processor", lambda: "another one")
    assert build(*([(*kernel_build.FLAGS, "-g")] if what == "flags" else [])) != path


@pytest.mark.usefixtures("needs_compiler")
def test_several_may_compile_at_once(folder):
    code = "import torch; from worker.engine import kernel_build as b; from pathlib import Path\n"
    code += f"b.SOURCES = [Path({str(kernel_build.SOURCES[0])!r})]; print(b.build())"
    command = [sys.executable, "-c", code]
    with ThreadPoolExecutor() as pool:
        outputs = [pool.submit(subprocess.check_output, command, text=True) for _ in range(2)]
        paths = {output.result().strip() for output in outputs}
    assert len(paths) == 1
    assert [str(path) for path in folder.iterdir()] == list(paths)


@pytest.mark.usefixtures("needs_compiler")
def test_no_second_openmp_runtime_is_loaded():
    before = kernel_build.openmp_runtimes()
    assert ctypes.CDLL(str(build())).sum_to(3) == 6
    assert kernel_build.openmp_runtimes() == before


def test_a_runtime_of_another_package_does_not_count(monkeypatch):
    torchs, other = Path(torch.__file__).parent / "lib/libgomp.so.1", Path("/elsewhere/libomp.so")
    monkeypatch.setattr(kernel_build, "openmp_runtimes", lambda: {torchs, other})
    assert kernel_build._torchs_openmp() == torchs
    monkeypatch.setattr(kernel_build, "openmp_runtimes", lambda: {other, Path("/b/libgomp.so")})
    assert "loaded: /b/libgomp.so, /elsewhere/libomp.so" in refusal()


def test_without_a_compiler_one_line_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "no C++ compiler is installed" in refusal()


def test_a_compiler_that_fails_is_quoted(folder, fake_compiler):
    fake_compiler('[ "$1" = --version ] && exit 0; echo "kernels.cpp:1: error: no way" >&2; exit 3')
    assert refusal().endswith("failed with 3: kernels.cpp:1: error: no way")
    assert list(folder.iterdir()) == []


def test_a_compiler_that_hangs_is_given_up(fake_compiler, monkeypatch):
    monkeypatch.setattr(kernel_build, "TIMEOUT_S", 0.05)
    fake_compiler("while :; do :; done")
    assert "took more than 0.05 s" in refusal()


def test_a_folder_that_others_may_write_to_is_not_used(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert "others may write" in refusal()


def test_a_cache_that_cannot_be_made_is_told(folder):
    folder.parent.write_text("a file where the folder would be")
    assert "cannot be made: " in refusal()


def test_a_relative_cache_folder_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kernel_build._folder() == tmp_path / ".cache" / "baton"


@pytest.fixture
def saved(model_of, tokenizer, tmp_path):
    model_of("llama").model.save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    return str(tmp_path / "llama")


def test_a_model_runs_without_kernels_and_the_log_says_why(saved, monkeypatch, caplog, drive, ask):
    monkeypatch.setenv("PATH", "")
    with caplog.at_level(logging.WARNING, loader.__name__):
        loaded = load_model(saved, device="cpu", dtype="bfloat16")
    assert loaded.kernels is None
    (record,) = caplog.records
    assert "torch's own kernels" in record.message
    assert "no C++ compiler" in record.message
    assert len(drive(loaded).add(ask("a", "fox", max_tokens=3)).finish()["a"].ids) == 3


def test_kernels_that_are_not_wanted_are_not_compiled(saved, monkeypatch, caplog):
    monkeypatch.setattr(loader, "load_kernels", None)
    loaded = load_model(saved, device="cpu", dtype="float32", kernels="torch")
    assert loaded.kernels is None
    assert not caplog.records
