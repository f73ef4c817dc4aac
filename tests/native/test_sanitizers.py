"""The native library's tests once more, on a build that watches every memory access and every undefined operation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kit.paths import ROOT, TESTS

FILES = ("native/test_native.py", "native/test_replay.py", "ops/test_packed.py", "native/test_onnx_library.py")
# The library with the sanitizers is found before the ordinary one; a test that stops at an error must say where.
RUN = """
import sys, dipc.native
dipc.native.__path__.insert(0, sys.argv[1])
assert dipc.native.describe().startswith(sys.argv[1]), dipc.native.describe()
assert sys.argv[2] in ("", dipc.native.instruction_set()), dipc.native.instruction_set()
import pytest
sys.exit(pytest.main(["-q", "-x", "--capture=no", "-p", "no:cacheprovider", *sys.argv[3:]]))
"""


def _runtime(name: str) -> str:
    """The path of one of the compiler's runtime libraries; the bare name where it has none."""
    return subprocess.run(
        ["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux" or not shutil.which("cmake") or not shutil.which("c++"):
        pytest.skip("needs Linux, CMake and a C++ compiler")
    if not Path(_runtime("libasan.so")).is_absolute():
        pytest.skip("the compiler has no address sanitizer")
    folder = tmp_path_factory.mktemp("sanitized")
    subprocess.run(["cmake", "-S", ROOT, "-B", folder, "-DDIPC_SANITIZE=address,undefined"], check=True)
    subprocess.run(["cmake", "--build", folder], check=True)
    return folder


@pytest.mark.nightly
@pytest.mark.parametrize("instructions", ["", "avx2", "portable"])
def test_the_native_tests_pass_under_sanitizers(build: Path, instructions: str) -> None:
    # Python itself is not instrumented: the runtime must be there first, and with it the library whose throw it wraps.
    settings = {
        "LD_PRELOAD": f"{_runtime('libasan.so')} {_runtime('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter keeps much to its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(ROOT),
        **({"DIPC_ISA": instructions} if instructions else {}),
    }
    files = [str(TESTS / name) for name in FILES]
    command = [sys.executable, "-c", RUN, str(build), instructions, *files]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
