"""Activity traces: which units each token touched at each site, bit-packed; saved and loaded.

Shapes: T tokens, U units of a site, B = ceil(U / 8) bytes. Bit order is numpy's: unit 0 is the highest bit of byte 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from dipc.errors import BadFile, UsageError
from dipc.tensor_file import TensorFormat

SCHEMA = 1
_PIECE_TOKENS = 256
_FORMAT = TensorFormat(
    "trace", SCHEMA, "give a file that dipc recorded as one", "record the trace again", framework="numpy"
)

Meta = dict[str, str | int | float]
Packed = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Trace:
    """Units that each token touched at every site, and how they were found. Do not modify the arrays."""

    sites: dict[str, Packed]
    """Packed masks by site, uint8 [T, B]; the bits past U are 0."""
    units: dict[str, int]
    """U of each site, in the same order."""
    meta: Meta
    """Where the trace comes from: model, method, density, scope, seed, text, cache policy ..."""

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise UsageError(f"trace: {problem}")

    @property
    def tokens(self) -> int:
        """T, the number of tokens; 0 if there is no site."""
        return next((len(packed) for packed in self.sites.values()), 0)

    def mask(self, site: str) -> npt.NDArray[np.bool_]:
        """The mask of a site, bool [T, U]."""
        return np.unpackbits(self.sites[site], axis=1, count=self.units[site]).view(np.bool_)

    def density(self, site: str) -> float:
        """Mean share of the site's units that a token touches; 0 for an empty trace."""
        accesses = int(accesses_by_token(self.sites[site]).sum())
        return accesses / (self.tokens * self.units[site]) if self.tokens else 0.0

    @classmethod
    def from_masks(cls, masks: Mapping[str, npt.NDArray[np.bool_]], meta: Meta) -> Trace:
        """Pack masks, bool [T, U] by site, all with the same T."""
        for site, mask in masks.items():
            if mask.dtype != np.bool_ or mask.ndim != 2:
                raise UsageError(f"trace: the mask of {site} is {mask.dtype} {list(mask.shape)}, not bool [T, U]")
        packed = {site: np.packbits(mask, axis=1) for site, mask in masks.items()}
        return cls(packed, {site: mask.shape[1] for site, mask in masks.items()}, dict(meta))

    @classmethod
    def concat(cls, traces: Sequence[Trace]) -> Trace:
        """One trace with the tokens of several, in order; of the metadata, what all agree on.

        Raises:
            UsageError: there is none, or their sites differ.
        """
        if not traces:
            raise UsageError("trace: nothing to join")
        first, *others = traces
        if any(other.units != first.units for other in others):
            raise UsageError("trace: only traces with the same sites and units can be joined")
        sites = {site: np.concatenate([trace.sites[site] for trace in traces]) for site in first.sites}
        agreed = {key: value for key, value in first.meta.items() if all(o.meta.get(key) == value for o in others)}
        return cls(sites, dict(first.units), agreed)

    def save(self, path: str | Path) -> None:
        """Write the trace as safetensors, to a temporary file that is then renamed: never half a trace."""
        sites = {site: np.ascontiguousarray(packed) for site, packed in self.sites.items()}
        _FORMAT.write(Path(path), sites, {"units": self.units, "meta": self.meta})

    @classmethod
    def load(cls, path: str | Path, *, mapped: bool = False) -> Trace:
        """Read a trace that `save` wrote.

        Args:
            path: the file.
            mapped: leave the masks in the file and bring in what is read, for a trace larger than memory. The file must
                not be written to meanwhile; to replace it does no harm.

        Raises:
            BadFile: there is no such file, it is damaged, no trace, of a newer schema, or contradicts itself.
        """
        sites, (units, meta) = _FORMAT.read(Path(path), "units", "meta", mapped=mapped)
        if set(units) != set(sites):
            raise BadFile(f"{path}: its header and its data name different sites; record the trace again")
        try:
            return cls({site: sites[site] for site in units}, cast(dict[str, int], units), cast(Meta, meta))
        except UsageError as error:
            raise BadFile(f"{path}: {error}; record the trace again") from error


def accesses_by_token(packed_TB: Packed) -> Counts:
    """Units that each token touches, int64 [T]; the masks, uint8 [T, B], are read in pieces."""
    counts_T = np.empty(len(packed_TB), dtype=np.int64)
    for piece in _pieces(len(packed_TB)):
        counts_T[piece] = np.bitwise_count(packed_TB[piece]).sum(axis=1, dtype=np.int64)
    return counts_T


def accesses_by_unit(packed_TB: Packed, units: int) -> Counts:
    """Tokens that touch each of U units, int64 [U]; the masks, uint8 [T, B], are read in pieces."""
    counts_U = np.zeros(units, dtype=np.int64)
    for piece in _pieces(len(packed_TB)):
        counts_U += np.unpackbits(packed_TB[piece], axis=1, count=units).sum(axis=0, dtype=np.int64)
    return counts_U


def _pieces(tokens: int) -> Iterator[slice]:
    return (slice(start, start + _PIECE_TOKENS) for start in range(0, tokens, _PIECE_TOKENS))


def _problem(trace: Trace) -> str:
    """Say what contradicts itself, or nothing (""). Values may come from a file and be of any type."""
    if list(trace.units) != list(trace.sites):
        return "its sites and their units do not go together"
    for site, packed in trace.sites.items():
        if site in ("", "__metadata__"):
            return f"{site!r} cannot be the name of a site"
        units = trace.units[site]
        if type(units) is not int or units < 1:
            return f"site {site} has {units!r} units"
        if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != -(-units // 8):
            return f"site {site} with {units} units is stored as {packed.dtype} {list(packed.shape)}"
        if len(packed) != trace.tokens:
            return f"site {site} has {len(packed)} tokens and another {trace.tokens}"
        if units % 8 and np.any(packed[:, -1] & (0xFF >> units % 8)):
            return f"site {site} has active units past its {units}"
    for key, value in trace.meta.items():
        if type(value) not in (str, int, float) or (isinstance(value, float) and not math.isfinite(value)):
            return f"metadata {key!r} is {value!r}, neither text nor a finite number"
    return ""
