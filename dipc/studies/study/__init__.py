"""Studies: what methods do on a device, over densities, DRAM, flash, policies and gamma; and the plan that follows.

`spec` says what is wanted, `grid` what has to be made for it, `executor` makes a run and `store` keeps it, `pricing`
says what a run costs on every device, `search` and `targets` find the highest throughput at a perplexity, `findings`
say what the figures show, `result` is what comes out, and `plan` picks one point of it.
"""

from __future__ import annotations

from dipc.studies.study.result import Study

__all__ = ["Study"]
