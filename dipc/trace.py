"""Activity traces: which units each token touched at each site, bit-packed; recorded, made up, saved and loaded.

Shapes: T tokens, U units of a site, B = ceil(U / 8) bytes. Bit order is numpy's: unit 0 is the highest bit of byte 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from dipc.errors import BadFile, UsageError
from dipc.tensor_file import TensorFormat

SCHEMA = 1
_PIECE_TOKENS = 1024
_FORMAT = TensorFormat(
    "trace", SCHEMA, "give a file that dipc recorded as one", "record the trace again", framework="numpy"
)
_DRAW_TOKENS = 64

Meta = dict[str, str | int | float]


@dataclass(frozen=True, eq=False)
class Trace:
    """Units that each token touched at every site, and how they were found. Do not modify the arrays."""

    sites: dict[str, npt.NDArray[np.uint8]]
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
        packed = self.sites[site]
        pieces = (packed[start : start + _PIECE_TOKENS] for start in range(0, self.tokens, _PIECE_TOKENS))
        touched = sum(int(np.unpackbits(piece).sum()) for piece in pieces)  # the bits past U are 0
        return touched / (self.tokens * self.units[site]) if self.tokens else 0.0

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

    @classmethod
    def synthetic(
        cls,
        units: Mapping[str, int],
        active: Mapping[str, int],
        tokens: int,
        seed: int,
        meta: Meta | None = None,
    ) -> Trace:
        """A made-up trace for a model of which only the config is known: units drawn uniformly at random.

        Real activity is more skewed, so real hit rates are usually higher than with such a trace. `meta["source"]`
        says what it is, so that a report can repeat it.

        Args:
            units: U of each site.
            active: units that each token touches at each site, in [0, U].
            tokens: T.
            seed: of numpy's PCG64; each site has a stream of its own.
            meta: further metadata.
        """
        if set(units) != set(active) or any(not 0 <= active[site] <= units[site] for site in units):
            raise UsageError("synthetic trace: `active` must give a number in [0, units] for each site of `units`")
        if tokens < 0 or seed < 0:
            raise UsageError("synthetic trace: tokens and seed must not be negative")
        sites = {
            site: _draw(np.random.Generator(np.random.PCG64([seed, number])), tokens, size, active[site])
            for number, (site, size) in enumerate(units.items())
        }
        return cls(sites, dict(units), {**(meta or {}), "source": "synthetic, uniform", "seed": seed})

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


def _problem(trace: Trace) -> str:
    """What contradicts itself, or an empty text. Values may come from a file and be of any type."""
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


def _draw(generator: np.random.Generator, tokens: int, units: int, active: int) -> npt.NDArray[np.uint8]:
    """Packed masks uint8 [T, B] with `active` units per token, any such set being as likely as another."""
    packed = np.zeros((tokens, -(-units // 8)), dtype=np.uint8)
    for start in range(0, tokens, _DRAW_TOKENS):  # in pieces, for a large site's random numbers take 8 bytes a unit
        order = generator.random((min(_DRAW_TOKENS, tokens - start), units))
        mask = np.ones(order.shape, dtype=np.bool_)
        if active < units:
            mask[:] = False
            np.put_along_axis(mask, np.argpartition(order, active, axis=1)[:, :active], True, axis=1)
        packed[start : start + _DRAW_TOKENS] = np.packbits(mask, axis=1)
    return packed
