"""The result of a comparison: a row per method and density, with all that its figures depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dipc.studies.engine.finding import Finding
from dipc.studies.method_rows import Kind

SLACK = 0.02
"""How far above its block's density a row may measure and still compete: thresholds miss by as much (Appendix C)."""


@dataclass(frozen=True)
class Figures:
    """The figures of one program on the text. Bytes are those that a token reads, without a KV cache.

    Attributes:
        perplexity: per token.
        bits_per_byte: of the text.
        kl_to_dense: nats per token.
        density: weights of the MLPs that were read, of all.
        hit_rate: of the program's own cache, if it has one.
        mlp_bytes: read of the MLPs' matrices, by the masks, with what is stored with them.
        resident_bytes: read of everything else, the whole of it for every token.
        overhead_bytes: the part of both that holds no parameter of the model: predictors, norms, scales, mask bits.
    """

    perplexity: float
    bits_per_byte: float
    kl_to_dense: float
    density: float
    hit_rate: float | None
    mlp_bytes: float
    resident_bytes: float
    overhead_bytes: float

    @property
    def bytes_read(self) -> float:
        """All bytes that a token reads."""
        return self.mlp_bytes + self.resident_bytes


@dataclass(frozen=True)
class Beside:
    """The figures of two rows at one density."""

    density: float
    left: Figures
    right: Figures


@dataclass(frozen=True)
class Accuracy:
    """A task's score: the metric, its value and standard error, the questions, and the examples before each."""

    metric: str
    value: float
    stderr: float | None
    count: int
    fewshot: int


@dataclass(frozen=True)
class Row:
    """One method in the block of one density, or the dense model.

    Attributes:
        name: what `--methods` calls it.
        label: what the table calls it.
        kind: `method` and `static` compete; an `oracle` is no device's, `lora` was trained, `dense` is the model.
        density: its block's; None where the pipeline alone decides.
        pipeline: what was compiled.
        figures: None where there are none.
        tasks: by name.
        reason: why something is missing, in a line.
        failed: whether that was a failure; a method that cannot do what was asked did not fail.
    """

    name: str
    label: str
    kind: Kind | str
    density: float | None
    pipeline: str
    figures: Figures | None = None
    tasks: Mapping[str, Accuracy] = field(default_factory=dict)
    reason: str | None = None
    failed: bool = False

    @property
    def competes(self) -> bool:
        """Return whether it may be the best of its block: no oracle, not trained, and at the density that was asked."""
        at_density = self.figures is not None and self.density is not None
        return at_density and self.kind in ("method", "static") and self.figures.density <= self.density + SLACK  # type: ignore[union-attr, operator]


@dataclass(frozen=True)
class Comparison:
    """All rows, with what they share.

    Attributes:
        model: its name, digest, layers, bits per weight.
        protocol: the text, its digest, tokens of a window, windows, tokens scored, scope, seed, calibration, training.
        dense: the dense model's row.
        rows: in the order of the table, block by block.
        findings: what the figures show.
    """

    model: Mapping[str, Any]
    protocol: Mapping[str, Any]
    dense: Row
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def densities(self) -> tuple[float | None, ...]:
        """The densities of the blocks, in order."""
        return tuple(dict.fromkeys(row.density for row in self.rows))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of any row, in order."""
        return tuple(dict.fromkeys(task for row in (self.dense, *self.rows) for task in row.tasks))

    @property
    def failures(self) -> tuple[Row, ...]:
        """Rows that something went wrong with."""
        return tuple(row for row in (self.dense, *self.rows) if row.failed)

    def block(self, density: float | None) -> tuple[Row, ...]:
        """The rows of one density."""
        return tuple(row for row in self.rows if row.density == density)

    def best(self, density: float | None) -> Row | None:
        """The row of least perplexity among those of a block that compete, and read less than the dense model."""
        least = self.dense.figures
        found = [r for r in self.block(density) if r.competes and least and r.figures.bytes_read < least.bytes_read]  # type: ignore[union-attr]
        return min(found, key=lambda row: row.figures.perplexity, default=None)  # type: ignore[union-attr]
