"""How caches meet drawn activity beside recorded one: differences of the demo's hit rates, in points.

python examples/drawn_activity.py --text wiki.test.raw
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import dipc
from dipc.cache.policy import get_policy
from dipc.cache.replay import replay_site
from dipc.ir.selections import with_capacities
from dipc.memory.lowering import lower
from dipc.memory.synthetic import synthetic_trace
from dipc.memory.trace import Trace
from dipc.text import read_text

METHODS = ("dip{density=0.7}", "dip{density=0.5}", "dip{density=0.3}", "dip-ca{density=0.5 gamma=0.2}")
POLICIES = ("lru", "lfu", "lfu-admission", "belady")
CAPACITIES = (0.25, 0.5, 0.75)
TOKENS = 2048

Floats = npt.NDArray[np.float64]


def hit_rates(trace: Trace) -> Floats:
    """[sites, cases]: hits per access after a quarter of the tokens."""
    warm, found = trace.tokens // 4, []
    for name, packed_TB in trace.sites.items():
        units = trace.units[name]
        cases = [(get_policy(p), int(part * units)) for p in POLICIES for part in CAPACITIES]
        accesses = np.bitwise_count(packed_TB[warm:]).sum()
        found.append([r.hits_T[warm:].sum() / accesses for r in replay_site(packed_TB, units, cases)])
    return np.array(found)


def uniform(trace: Trace) -> Trace:
    """As many units of each site, any of them."""
    draw = np.random.default_rng(0)
    masks = {}
    for name, units in trace.units.items():
        rank_TU = draw.random((trace.tokens, units)).argsort(axis=1).argsort(axis=1)
        masks[name] = rank_TU < trace.mask(name).sum(axis=1, keepdims=True)
    return Trace.from_masks(masks, {})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path)
    text: Any = parser.parse_args().text
    demo = dipc.capture("demo")
    for method in METHODS:
        program = dipc.compile(demo, method).program
        program = with_capacities(program, {site.name: site.units // 2 for site in lower(program).sites})
        score = dipc.evaluate(program, text and read_text(text), seq_len=512, max_tokens=TOKENS, record=True)
        assert score.trace is not None
        recorded, drawn = hit_rates(score.trace), synthetic_trace(program, seed=0, tokens=score.trace.tokens)
        cells = []
        for made in (drawn, uniform(score.trace)):
            apart = 100 * np.abs(hit_rates(made) - recorded), 100 * np.abs((hit_rates(made) - recorded).mean(0))
            cells += [f"{points.max():.1f}" for points in apart]
        print(f"| `{method}` |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
