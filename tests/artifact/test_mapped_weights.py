"""A model that does not fit: weights stay in their file, or are widened into one, and read as they are needed."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dipc.api import capture, compile, save
from dipc.artifact.mapped_weights import map_weights
from dipc.ir.program import Program
from kit.tiny_models import tiny_llama, tiny_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")

# What the first model brings with it, modules and buffers, is there before the limit is set.
RUN = """
import resource, sys, torch
from dipc.api import capture, load
from dipc.backends.eager import EagerSession

def status(key):
    line = next(l for l in open("/proc/self/status") if l.startswith(key + ":"))
    return int(line.split()[1]) * 1024

def run(folder):
    program = load(folder)
    for version in (program, program.dense):
        assert EagerSession(version, record=True).step(torch.arange(3)).logits.isfinite().all()

small, large, half, checkpoint, margin = *sys.argv[1:5], int(sys.argv[5])
run(small)
capture(checkpoint + "-small")
limit = resource.getrlimit(resource.RLIMIT_DATA)
resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + margin, limit[1]))
run(large)
run(half)
resource.setrlimit(resource.RLIMIT_DATA, limit)
before = status("RssAnon")
kept = capture(checkpoint)
assert EagerSession(kept).step(torch.arange(3)).logits.isfinite().all()
print(status("RssAnon") - before)
"""


def in_half(program: Program) -> Program:
    """The same with weights as of a checkpoint in float16, which are computed with in float32."""
    info = dataclasses.replace(program.info, weight_bits=16.0)
    both = {n: w.half().float() for n, w in {**program.reference.weights, **program.weights}.items()}
    return program.replace(weights=both, info=info, dense=program.reference.replace(weights=both, info=info))


def weights_bytes(folder: Path) -> int:
    return (folder / "weights.safetensors").stat().st_size


def check(folder: Path, **sizes: Any) -> None:
    made: Any = tiny_model("llama", **sizes)
    made.save_pretrained(folder / "checkpoint")
    small: Any = tiny_model("llama")
    small.save_pretrained(folder / "checkpoint-small")
    program = compile(capture(made, name="large"), "dip-ca").program
    save(program, folder / "large")
    save(compile(tiny_llama(), "dip-ca").program, folder / "small")
    save(in_half(program), folder / "half")
    assert (folder / "half" / "weights.safetensors").stat().st_size < 0.51 * weights_bytes(folder / "large")
    size_bytes = weights_bytes(folder / "large")
    arguments = [str(folder / name) for name in ("small", "large", "half", "checkpoint")]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments, str(size_bytes // 3)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) < size_bytes // 3


def test_a_model_runs_in_a_third_of_its_size(tmp_path: Path) -> None:
    check(tmp_path, hidden_size=512, intermediate_size=4096, num_hidden_layers=4)  # 110 MB


@pytest.mark.nightly
def test_a_large_model_runs_in_a_third_of_its_size(tmp_path: Path) -> None:
    check(tmp_path, hidden_size=1024, intermediate_size=8192, num_hidden_layers=6)  # 700 MB


def test_a_mapped_file_holds_what_was_written(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8)
    written = {str(d): torch.arange(6).reshape(2, 3).to(d) for d in dtypes}
    written |= {"bool": torch.tensor([True, False]), "none": torch.empty(0, 4), "one": torch.tensor(2.5)}
    save_file(written, tmp_path / "w.safetensors", metadata={"format": "pt"})
    found = map_weights(tmp_path / "w.safetensors")
    assert found.keys() == written.keys()
    assert all(found[n].dtype == t.dtype and torch.equal(found[n], t) for n, t in written.items())
