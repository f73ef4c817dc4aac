"""The Triton kernels without a GPU: in Triton's interpreter, and through its compiler.

Triton decides when it is imported whether it interprets, so both have a process of their own: this file, run with
`interpret CASES RESULTS` or `compile`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from kit.paths import ROOT, TESTS

Case = tuple[Any, ...]
"""The arguments of `select_cache_aware`."""


def interpreted(cases: list[Case], folder: Path) -> list[Case]:
    """What the operator returns for each case, where its kernel is interpreted on CPU tensors."""
    given, made = folder / "cases.pt", folder / "results.pt"
    torch.save(cases, given)
    _run("interpret", str(given), str(made), TRITON_INTERPRET="1")
    results: list[Case] = torch.load(made)
    return results


def compile_kernels(folder: Path) -> str:
    """Compile for an NVIDIA GPU of compute capability 8.0, down to its machine code; a line for each kernel."""
    return _run("compile", TRITON_CACHE_DIR=str(folder))


def _run(*arguments: str, **settings: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "kit.triton_kernels", *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)]), **settings}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _interpret(given: str, made: str) -> None:
    from dipc.gpu import selection
    from dipc.ops.select_cache_aware import OPERATOR

    selection.covers_scores = lambda score: True
    assert OPERATOR.kernel is not None
    torch.save([OPERATOR.kernel(*case) for case in torch.load(given)], made)


def _compile() -> None:
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dipc.gpu.arguments import Arrays, Rule, State
    from dipc.gpu.cache_scan import _scan

    state = State("*u8", "*i64", "*i64", "*i64")
    numbers = dict.fromkeys(("tokens", "units", "kept", "capacity"), "i32")
    for dtype, rule in (
        ("fp32", Rule(2**25, 1, True, True, True)),
        ("bf16", Rule(2**25, 0, False, False, False)),
        ("fp16", Rule(0, 0, True, True, False)),
    ):
        signature = {"arrays": Arrays(f"*{dtype}", "*u8", "*u8", state, state), **numbers, "gamma": "fp32"}
        signature |= {"RULE": "constexpr", "BLOCK": "constexpr"}
        made = compile(
            ASTSource(_scan, signature, {"RULE": rule, "BLOCK": 64}),
            target=GPUTarget("cuda", 80, 32),
            options={"num_warps": 1, "enable_fp_fusion": False},
        )
        print(dtype, len(made.asm["cubin"]))


if __name__ == "__main__":
    if sys.argv[1] == "interpret":
        _interpret(*sys.argv[2:])
    else:
        _compile()
