"""The fair table: every method on one model, one text and one set of densities, as the paper's Tables 1, 3 and 4.

`entries` says which rows there are, `folder` keeps every finished cell, `measure` makes one, `run` goes over all of
them, `result` is what comes out, and `verdict` says in words what the figures show.
"""

from __future__ import annotations

from dipc.studies.compare.result import Comparison, Row
from dipc.studies.compare.run import compare

__all__ = ["Comparison", "Row", "compare"]
