"""The fair table: every method on one model, one text and one set of densities, as the paper's Tables 1, 3 and 4.

`run` goes over all rows (`dipc.studies.method_rows`), `store` keeps every finished cell, `executor` makes one,
`measure` is its figures, `result` is what comes out, and `findings` are what the figures show.
"""

from __future__ import annotations

from dipc.studies.compare.result import Comparison, Row
from dipc.studies.compare.run import compare

__all__ = ["Comparison", "Row", "compare"]
