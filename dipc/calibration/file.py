"""Calibration: what `dipc calibrate` measured of a model on text, as a file, and what the methods read from it.

One safetensors file, whose tensors `dipc.calibration.tensors` lists. Its header holds `format`, `schema` and `meta`, a
JSON object that names the model (with its digest), the text, the tokens and the seed. Loading runs no code from it.

Shape legend: D d_model, F d_ff, H a predictor's hidden width, N windows of T tokens, U units of a site.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from torch import Tensor

from dipc.calibration.density_allocation import DensityAllocation
from dipc.calibration.tensors import SCORES, mlp_of, sizes_of
from dipc.errors import BadFile, UnknownName, UsageError
from dipc.ir.program import Program
from dipc.tensor_file import TensorFormat

SCHEMA = 1
PARTS = ("thresholds", "sensitivity", "predictors", "allocation")
_FORMAT = TensorFormat(
    "calibration", SCHEMA, "make one with `dipc calibrate MODEL -o FILE`", "calibrate again", framework="pt"
)

Meta = Mapping[str, str | int | float]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Measurements, and of what they are. Do not modify the tensors.

    Raises:
        UsageError: a tensor has another name, shape, dtype or range than `dipc.calibration.tensors` says.
    """

    meta: Meta
    """At least `model` and `digest`; from `dipc calibrate` also the text, tokens, seq_len, seed and dipc's version."""
    tensors: Mapping[str, Tensor]
    """By the names in `dipc.calibration.tensors`."""

    def __post_init__(self) -> None:
        for key in ("model", "digest"):
            if not isinstance(self.meta.get(key), str):
                raise UsageError(f"calibration: its metadata lacks the text {key!r}")
        for key, value in self.meta.items():
            if type(value) not in (str, int, float) or (isinstance(value, float) and not math.isfinite(value)):
                raise UsageError(f"calibration: metadata {key!r} is {value!r}, neither text nor a finite number")
        _ = self.sizes  # checks the tensors

    @cached_property
    def sizes(self) -> Mapping[tuple[str, str], int]:
        """The size of each letter of the table of tensors, by site prefix and letter: `("layers.3", "D")`."""
        return sizes_of(self.tensors)

    @property
    def parts(self) -> tuple[str, ...]:
        """Which of `PARTS` it holds."""
        first = {"thresholds": "quantiles", "predictors": "predictor"}
        held = {name.partition(".")[0] for name in self.tensors}
        return tuple(part for part in PARTS if first.get(part, part) in held)

    @property
    def mlps(self) -> tuple[str, ...]:
        """Site prefixes of the MLPs that were measured."""
        return tuple(dict.fromkeys(mlp for name in self.tensors if (mlp := mlp_of(name))))

    def threshold(self, mlp: str, score: str, density: float) -> float:
        """The largest t with P(score >= t) >= density over the MLP's units and tokens; 0 at density 1.

        Between the stored quantiles it is interpolated.

        Args:
            mlp: a site prefix, such as `layers.3`.
            score: one of `SCORES`.
            density: the share of scores that is to pass, in (0, 1].

        Raises:
            BadFile: it was made without thresholds, or not of this MLP.
        """
        return self._threshold(mlp, score, density)

    def global_threshold(self, score: str, density: float) -> float:
        """One threshold over the units of all MLPs (section 3.1); else as `threshold`."""
        return self._threshold("all", score, density)

    def _threshold(self, mlp: str, score: str, density: float) -> float:
        if score not in SCORES:
            raise UnknownName("score", score, SCORES)
        if not 0 < density <= 1:
            raise UsageError(f"threshold: density={density:g} is outside (0, 1]")
        quantiles = self._tensor(f"quantiles.{mlp}.{score}", "thresholds")
        if density == 1:
            return 0.0
        place = (1 - density) * (len(quantiles) - 1)
        below = min(int(place), len(quantiles) - 2)
        low, high = quantiles[below : below + 2].tolist()
        return float(low + (high - low) * (place - below))

    def sensitivity(self, mlp: str) -> Tensor:
        """f32[D]: the root mean square norm of each column of the MLP's Jacobian, over tokens."""
        return self._tensor(f"sensitivity.{mlp}", "sensitivity")

    def popularity(self, mlp: str, where: str) -> Tensor:
        """f32[U]: the share of tokens in which the unit's magnitude is among the larger half.

        `where` is "input" (U = D) or "glu" (U = F).
        """
        if where not in ("input", "glu"):
            raise UnknownName("site", where, ("input", "glu"))
        return self._tensor(f"popularity.{mlp}.{where}", "thresholds")

    def popularity_counts(self, mlp: str, where: str) -> Tensor:
        """i64[U]: `popularity` as a cache policy takes it, a count: as if of 2**24 tokens."""
        return (self.popularity(mlp, where) * 2**24).round().long()

    def predictor(self, mlp: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """w1 [H, D], b1 [H], w2 [F, H], b2 [F] in float32; the logits are w2 relu(w1 x + b1) + b2."""
        w1, b1, w2, b2 = (self._tensor(f"predictor.{mlp}.{name}", "predictors") for name in ("w1", "b1", "w2", "b2"))
        return w1, b1, w2, b2

    def windows(self) -> Tensor:
        """i64[N, T]: a sample of the text's tokens, for passes that solve on activations."""
        return self._tensor("windows", "windows")

    @property
    def allocation(self) -> DensityAllocation | None:
        """How densities are shared out, or None where it was made without."""
        if "allocation" not in self.parts:
            return None
        return DensityAllocation.from_tensors(self.tensors)

    def _tensor(self, name: str, part: str) -> Tensor:
        found = self.tensors.get(name)
        if found is None:
            what = f"has no {name}" if part in self.parts else f"was made without {part}"
            hint = f" with {part} among its --parts" if part in PARTS else ""
            raise BadFile(f"the calibration of {self.meta['model']} {what}; run `dipc calibrate`{hint}")
        return found

    def save(self, path: str | Path) -> None:
        """Write it as safetensors, to a temporary file that is then renamed: never half a calibration."""
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.tensors.items()}
        _FORMAT.write(Path(path), tensors, {"meta": dict(self.meta)})

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read a calibration that `save` wrote.

        Raises:
            BadFile: there is no such file, it is damaged, no calibration, of a newer schema, or contradicts itself.
        """
        tensors, (meta,) = _FORMAT.read(Path(path), "meta")
        try:
            return cls(meta, tensors)
        except UsageError as error:
            raise BadFile(f"{path}: {error}; calibrate again") from error


def calibration_for(path: str | Path, program: Program) -> Calibration:
    """The calibration in a file, for this program or for any form of it that was quantised or pruned.

    Raises:
        BadFile: as `Calibration.load`, or it was made for another model.
    """
    found = _cached(str(path), *_stamp(path))
    info, made_for = program.info, found.meta
    if made_for["digest"] != info.digest:
        raise BadFile(
            f"{path}: made for {made_for['model']} (digest {made_for['digest']}), not for {info.name} "
            f"(digest {info.digest}); run `dipc calibrate` on the model that is compiled"
        )
    for mlp in program.mlps:
        for letter, size in (("D", mlp.d_model), ("F", mlp.d_ff)):
            if found.sizes.get((mlp.site_prefix, letter), size) != size:
                raise BadFile(f"{path}: made for other sizes than those of {mlp.name}; calibrate again")
    sample = found.tensors.get("windows")
    if sample is not None and int(sample.max()) >= info.vocab:
        raise BadFile(f"{path}: its windows hold tokens that {info.name} does not have; calibrate again")
    return found


@lru_cache(maxsize=2)
def _cached(path: str, _size: int, _mtime: int) -> Calibration:
    return Calibration.load(path)


def _stamp(path: str | Path) -> tuple[int, int]:
    """Return what changes when a file does; nothing where there is none, which `load` then says."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
