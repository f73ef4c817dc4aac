"""Which rows a comparison has: the registered methods, the paper's own rows, and pipelines that the user gives.

A row is a pipeline in which DENSITY stands for the density of its block, and ADAPTER for the LoRA adapter that is
trained for it: `fuse-lora{adapter=ADAPTER},dip{density=DENSITY}`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dipc.errors import UnknownName, UsageError
from dipc.pipeline.pass_ import PASSES, Pass
from dipc.pipeline.sparsity_pass import SparsityPass
from dipc.pipeline.text import parse_pipeline

Kind = Literal["method", "static", "oracle", "lora"]
DENSITY, ADAPTER = "DENSITY", "ADAPTER"
LORA = "fuse-lora"
_GLU_LEAST = 2 / 3
_TRAINED = " + LoRA"


@dataclass(frozen=True)
class Entry:
    """A row of every block whose density is in [least, below).

    Attributes:
        name: what `--methods` calls it.
        label: what the table calls it.
        template: its pipeline.
        kind: `method` and `static` compete for the best row; what no device can do, and what was trained, do not.
        least: the smallest density of a block that it stands in.
        below: a density that is above all of them.
    """

    name: str
    label: str
    template: str
    kind: Kind = "method"
    least: float = 0.0
    below: float = math.inf

    @property
    def is_fixed(self) -> bool:
        """Whether it is the same at every density."""
        return not _has(self.template, DENSITY)

    @property
    def is_trained(self) -> bool:
        """Whether it needs an adapter."""
        return _has(self.template, ADAPTER)

    def stands_at(self, density: float | None) -> bool:
        """Whether the block of this density has it; that of None has what has no density of its own."""
        if density is None:
            return self.is_fixed and self.least == 0
        return self.least <= density < self.below and not (self.is_fixed and self.least == 0)

    def pipeline(self, density: float | None, adapter: str = ADAPTER) -> str:
        """The pipeline at a density, with the adapter's folder."""
        return _put(_put(self.template, DENSITY, "" if density is None else f"{density:.12g}"), ADAPTER, adapter)


_PAPER = (
    Entry("glu", "glu (oracle)", "glu{rho_glu=DENSITY}", "oracle"),
    Entry("glu", "glu", "glu{density=DENSITY}", least=_GLU_LEAST),
    Entry("sparsegpt", "sparsegpt", "sparsegpt{density=DENSITY}", "static"),
    Entry("sparsegpt-2:4", "sparsegpt 2:4", "sparsegpt{density=0.5 pattern=2:4}", "static", 0.5, 0.5 + 1e-9),
    Entry("sparsegpt-4:8", "sparsegpt 4:8", "sparsegpt{density=0.5 pattern=4:8}", "static", 0.5, 0.5 + 1e-9),
    Entry("gate", "gate", "gate{density=DENSITY}"),
    Entry("up", "up", "up{density=DENSITY}"),
    Entry("predictor", "predictor", "predictor{density=DENSITY}"),
    Entry("cats", "cats", "cats{density=DENSITY}"),
    Entry("cats+lora", "cats + LoRA", "fuse-lora{adapter=ADAPTER},cats{density=DENSITY}", "lora"),
    Entry("dip", "dip", "dip{density=DENSITY}"),
    Entry("dip+lora", "dip + LoRA", "fuse-lora{adapter=ADAPTER},dip{density=DENSITY}", "lora"),
    Entry("dip+split", "dip, split", "dip{allocation=split density=DENSITY}"),
)
_BEYOND = (Entry("dip+layers", "dip, by layer", "dip{allocation=layers density=DENSITY}"),)


def choose(methods: str | Sequence[str], densities: Sequence[float], *, lora: bool = False) -> list[Entry]:
    """The rows of a comparison.

    Args:
        methods: `all`, `paper` (the rows of its Tables 1, 3 and 4), names of rows, and pipelines with DENSITY; a text
            is a list of names with commas.
        densities: of the blocks, to try pipelines with.
        lora: whether `all` and `paper` have the rows that need a trained adapter.

    Raises:
        UsageError: a name or an option that is not known, or a pipeline that cannot be read.
    """
    wanted = [m.strip() for m in methods.split(",")] if isinstance(methods, str) else list(methods)
    found: dict[tuple[str, str], Entry] = {}
    for item in filter(None, wanted):
        for entry in _entries(item, densities, lora):
            found.setdefault((entry.label, entry.template), entry)
    if not found:
        raise UsageError("methods: the list is empty; write all, or names such as dip,cats")
    return list(found.values())


def _entries(item: str, densities: Sequence[float], lora: bool) -> list[Entry]:
    if "{" in item or "," in item:
        return [_given(item, densities)]
    if item in ("all", "paper"):
        rows = known() if item == "all" else [e for e in known() if e in _PAPER]
        return [entry for entry in rows if lora or not entry.is_trained]
    named = [entry for entry in known() if entry.name == item]
    if not named and item in PASSES.names():
        raise UsageError(
            f"methods: {item} is no sparsification method; name it in a pipeline: '{item},dip{{density=DENSITY}}'"
        )
    if not named:
        raise UnknownName("method", item, {"all", "paper", *(entry.name for entry in known())})
    return named


def known() -> list[Entry]:
    """Every row that the registered passes allow: the paper's in its order, then the others by name."""
    listed = [entry for entry in (*_PAPER, *_BEYOND) if _exists(entry)]
    names = {entry.name for entry in listed}
    others = [n for n in PASSES.names() if n not in names and issubclass(PASSES.get(n), SparsityPass)]
    return [*listed, *(Entry(n, n, f"{n}{{density=DENSITY}}") for n in others)]


def _exists(entry: Entry) -> bool:
    """Whether its passes are registered and have its options."""
    try:
        parse_pipeline(entry.pipeline(1.0))
    except UnknownName:
        return False
    except UsageError:  # a density that it cannot have, or something it needs besides
        return True
    return True


def _given(template: str, densities: Sequence[float]) -> Entry:
    """The row of a pipeline; its label is the pipeline without what is the same in every row."""
    entry = Entry(template, _name(template), template)
    problem: UsageError | None = None
    for density in (*densities, 1.0):
        try:
            passes = parse_pipeline(entry.pipeline(density))
        except UsageError as error:
            problem = problem or error
        else:
            return _checked(entry, passes)
    assert problem is not None
    raise problem


def _checked(entry: Entry, passes: list[Pass]) -> Entry:
    if entry.is_trained and all(p.name != LORA for p in passes):
        raise UsageError(f"methods: {entry.template}: ADAPTER is for {LORA}{{adapter=ADAPTER}}")
    if any(getattr(p, "scope", "all") != "all" for p in passes):
        raise UsageError(f"methods: {entry.template}: scope=decode would score other tokens than the other rows")
    trained: Kind = "lora" if any(p.name == LORA for p in passes) else "method"
    return Entry(entry.name, entry.label, entry.template, trained)


def _name(template: str) -> str:
    """Its label, and a known row's where the pipeline is that row's, with or without an adapter."""
    text = _label(template)
    base = text.removesuffix(_TRAINED)
    names = {_label(entry.template): entry.label for entry in known()}
    return names.get(base, base) + (_TRAINED if base != text else "")


def _label(template: str) -> str:
    lora = re.compile(rf"{LORA}\s*\{{[^{{}}]*{ADAPTER}[^{{}}]*\}}\s*,?\s*")
    text = re.sub(r"\s*\bdensity\s*=\s*DENSITY\b\s*", " ", lora.sub("", template))
    text = re.sub(r"\{\s*\}", "", re.sub(r"\s*([{}])\s*", r"\1", text)).strip()
    return f"{text}{_TRAINED}" if lora.search(template) else text


def _has(template: str, word: str) -> bool:
    return re.search(rf"\b{word}\b", template) is not None


def _put(template: str, word: str, value: str) -> str:
    quoted = f'"{value}"' if re.search(r"[\s,=]", value) else value
    return re.sub(rf"\b{word}\b", lambda _: quoted, template)
