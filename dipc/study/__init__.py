"""Studies: what methods do on a device, over densities, DRAM, flash, policies and gamma; and the plan that follows.

`asked` says what is wanted, `runs` and `make` measure what has to be measured, `workers` do that in parallel, `pricing`
prices it on the device, `targets` finds the highest throughput at a perplexity, `findings` says what the figures show,
`result` is what comes out, and `plan` picks one point of it.
"""

from __future__ import annotations

from dipc.study.result import Study

__all__ = ["Study"]
