"""Every causal language model of transformers: the same numbers, or one line that says what dipc cannot do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LIMIT_S = 180
INTERNAL = re.compile(r"has no attribute|'NoneType'|unexpected keyword|meta tensors|Traceback")


@pytest.mark.nightly
@pytest.mark.parametrize("family", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_an_architecture_is_captured_or_refused_in_words(family: str) -> None:
    command = [sys.executable, "-m", "kit.architectures", family]
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"takes more than {LIMIT_S} s")
    lines = answer.stdout.strip().splitlines()
    assert answer.returncode == 0 and lines, answer.stderr[-500:]
    found, _, rest = lines[-1].partition(" ")
    if found == "skipped":
        pytest.skip(f"no small model can be made of its default configuration: {rest}")
    assert float(rest) <= 2e-5 if found == "captured" else not INTERNAL.search(rest), lines[-1]
