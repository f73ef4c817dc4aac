"""The contest of the cache-aware selection, a part of two benches: the native scan and the loop of torch calls."""

from __future__ import annotations

from dipc.studies.bench.candidate import Candidate
from dipc.studies.bench.candidates.cache_aware import CASE, native_scan, torch_scan
from dipc.studies.bench.contest import Outcome, Progress, Rules, run_interleaved

UNITS, TOKENS = 4096, 32
NATIVE, TORCH = ("native scan", CASE), ("torch loop", CASE)
"""Candidate and case."""


def run_scan(seed: int, rules: Rules, progress: Progress) -> Outcome:
    """Let both select with a cache for the same scores, in turns."""
    arguments = {"units": UNITS, "tokens": TOKENS, "seed": seed, "threads": rules.threads}
    both = [
        Candidate.calling(NATIVE[0], native_scan, **arguments),
        Candidate.calling(TORCH[0], torch_scan, **arguments),
    ]
    return run_interleaved(both, rules, progress)
