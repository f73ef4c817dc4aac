"""The contest of the cache-aware selection, a part of two benches: the scans and the loop of torch calls."""

from __future__ import annotations

import torch

from dipc.studies.bench.candidate import Candidate
from dipc.studies.bench.candidates.cache_aware import CASE, native_scan, torch_scan, triton_scan
from dipc.studies.bench.contest import Outcome, Progress, Rules, run_interleaved

UNITS, TOKENS = 4096, 32
NATIVE, TORCH = ("native scan", CASE), ("torch loop", CASE)
TRITON, TORCH_ON_GPU = ("Triton scan on the GPU", CASE), ("torch loop on the GPU", CASE)
"""Candidate and case."""


def run_scan(seed: int, rules: Rules, progress: Progress) -> Outcome:
    """Let all select with a cache for the same scores, in turns; those on a GPU where there is one."""
    arguments = {"units": UNITS, "tokens": TOKENS, "seed": seed, "threads": rules.threads}
    entrants = [
        Candidate.calling(NATIVE[0], native_scan, **arguments),
        Candidate.calling(TORCH[0], torch_scan, **arguments),
    ]
    if torch.cuda.is_available():
        entrants += [
            Candidate.calling(TRITON[0], triton_scan, **arguments),
            Candidate.calling(TORCH_ON_GPU[0], torch_scan, **arguments, device="cuda"),
        ]
    return run_interleaved(entrants, rules, progress)
