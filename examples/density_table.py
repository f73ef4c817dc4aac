"""Perplexity and simulated speed over density, for `dip` and `dip-ca`: the table in the README.

python examples/density_table.py --text wiki.test.raw --max-tokens 40000

Throughput is simulated on a device with DRAM for a share of the model (half by default). Below the table stands, for
every `dip-ca` row, the perplexity that `dip` has at the same throughput, interpolated between its rows.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

import dipc
from dipc.text import read_text, sample_text


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    method: str
    density: float
    perplexity: float
    kl: float
    hit_rate: float
    throughput: float
    speedup: float


def measure(program: dipc.Program, passes: str, text: dipc.Text, args: argparse.Namespace) -> tuple[Row, dipc.Estimate]:
    """Compile, run in closed loop on the text, price."""
    compiled = dipc.compile(program, passes).program
    options = {"dram": args.dram, "max_tokens": args.max_tokens, "seq_len": args.seq_len, "context": args.seq_len}
    cost = dipc.estimate(compiled, args.hw, text=text, **options)
    score, price = cost.score, cost.sparse
    assert score is not None and price is not None
    row = Row(
        passes, score.density, score.perplexity, score.kl_to_dense, price.hit_rate, price.throughput, cost.speedup
    )
    return row, cost


def at_throughput(rows: list[Row], throughput: float) -> float | None:
    """Perplexity of a method at a throughput, log-linear between the two rows around it; None outside its range."""
    ordered = sorted(rows, key=lambda r: r.throughput)
    for low, high in pairwise(ordered):
        if low.throughput <= throughput <= high.throughput:
            share = (throughput - low.throughput) / (high.throughput - low.throughput)
            return math.exp((1 - share) * math.log(low.perplexity) + share * math.log(high.perplexity))
    return None


def main() -> None:
    """Measure every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--hw", default="a18")
    parser.add_argument("--dram", default="50%")
    parser.add_argument("--text", type=Path, help="UTF-8 text; by default the sample that comes with dipc")
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--densities", default="0.9,0.7,0.5,0.3")
    parser.add_argument("--gammas", default="0.2,0.5")
    args = parser.parse_args()
    text = read_text(args.text) if args.text else sample_text()
    program = dipc.capture(args.model)
    densities = args.densities.split(",")
    jobs = [f"dip{{density={d}}}" for d in densities]
    jobs += [f"dip-ca{{density={d} gamma={g}}}" for g in args.gammas.split(",") for d in densities]
    results = [measure(program, j, text, args) for j in track(jobs, console=Console(file=sys.stderr), transient=True)]
    rows, cost = [r for r, _ in results], results[0][1]
    assert cost.score is not None

    table = Table(title=f"{cost.model} on {text.name}, simulated on {cost.device.name} with {args.dram} of it in DRAM")
    for heading in ("method", "density", "perplexity", "KL to dense", "hit rate", "tok/s", "x dense"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    table.add_row("dense", "1.00", f"{cost.score.dense_perplexity:.2f}", "", "", f"{cost.dense.throughput:.1f}", "1.00")
    for r in rows:
        figures = (f"{r.density:.2f}", f"{r.perplexity:.2f}", f"{r.kl:.3f}", f"{r.hit_rate:.3f}")
        table.add_row(r.method, *figures, f"{r.throughput:.1f}", f"{r.speedup:.2f}")
    console = Console(width=100)
    console.print(table)
    plain = [r for r in rows if r.method.startswith("dip{")]
    for r in rows:
        same = at_throughput(plain, r.throughput) if r not in plain else None
        if same is not None:
            verdict = "lower" if r.perplexity < same else "not lower"
            console.print(f"{r.method}: {r.perplexity:.2f}, dip at its {r.throughput:.1f} tok/s {same:.2f}: {verdict}")
    score = cost.score
    console.print(
        f"{score.tokens} tokens in windows of {score.seq_len}, scope all, policy {cost.policy}, "
        f"context {cost.context}, {cost.bits_per_weight:g} bits per weight; the hit rate counts bytes over all sites; "
        "nothing here is random"
    )


if __name__ == "__main__":
    main()
