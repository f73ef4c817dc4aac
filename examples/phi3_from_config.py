"""A 14-billion-parameter model from its config.json alone: compiled and priced without a single weight.

Prints the dense rows of the paper's Tables 6 and 7, the figure for `dip` on made-up activity, seconds and memory.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import dipc

CONFIG = Path(__file__).parent / "configs" / "phi-3-medium.json"


def main() -> None:
    """Capture, compile, estimate."""
    start = time.perf_counter()
    program = dipc.compile(CONFIG, "dip{density=0.5}").program
    compiled = time.perf_counter() - start
    print(f"{program.info.name}: {program.parameter_count / 1e9:.2f} B parameters, compiled in {compiled:.1f} s")
    for dram, flash in (("2 GB", "1 GB/s"), ("4 GB", "1 GB/s"), ("6 GB", "1 GB/s"), ("4 GB", "0.5 GB/s")):
        cost = dipc.estimate(program, "a18", dram=dram, flash=flash, bits_per_weight=4.25, context=0)
        assert cost.sparse is not None
        print(
            f"  simulated, {dram} DRAM, {flash} flash: dense {cost.dense.throughput:.2f} tok/s, "
            f"dip {cost.sparse.throughput:.2f} ({cost.source})"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{time.perf_counter() - start:.1f} s in all, {peak / 1e9:.2f} GB of memory at most")


if __name__ == "__main__":
    main()
