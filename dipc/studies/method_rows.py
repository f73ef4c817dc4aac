"""Methods by name: the registered methods, the paper's own rows, and pipelines that the user gives.

A row is a pipeline in which DENSITY stands for the density of its block, and ADAPTER for the LoRA adapter that is
trained for it: `fuse-lora{adapter=ADAPTER},dip{density=DENSITY}`. A pipeline that names no density, as
`dip-ca{gamma=0.5}` or `int4,dip`, has that of its block; one that names its own keeps it, in a block of its own.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dipc.errors import UnknownName, UsageError
from dipc.pipeline.lexer import Step, listed, read_steps, write_steps
from dipc.pipeline.pass_ import PASSES, Pass
from dipc.pipeline.sparsity_pass import SparsityPass
from dipc.pipeline.text import parse_pipeline
from dipc.registry import name_of

Kind = Literal["method", "static", "oracle", "lora"]
DENSITY, ADAPTER = "DENSITY", "ADAPTER"
_WHERE = {DENSITY: rf"\b{DENSITY}\b", ADAPTER: rf"\A{ADAPTER}\Z"}
"""A density may be a part of a folder's name, of which there is one for each; an adapter is trained for the row."""
LORA = "fuse-lora"
_GLU_LEAST = 2 / 3
_TRAINED = " + LoRA"


@dataclass(frozen=True)
class MethodRow:
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
        """Return whether it is the same at every density."""
        return not _has(self.template, DENSITY)

    @property
    def is_trained(self) -> bool:
        """Return whether it needs an adapter."""
        return _has(self.template, ADAPTER)

    def applies_at(self, density: float | None) -> bool:
        """Return whether the block of this density has it; that of None has what has no density of its own."""
        if density is None:
            return self.is_fixed and self.least == 0
        return self.least <= density < self.below and not (self.is_fixed and self.least == 0)

    def pipeline(self, density: float | None, adapter: str = ADAPTER) -> str:
        """The pipeline at a density, with the adapter's folder."""
        return _put(_put(self.template, DENSITY, "" if density is None else f"{density:.12g}"), ADAPTER, adapter)


_PAPER = (
    MethodRow("glu", "glu (oracle)", "glu{rho_glu=DENSITY}", "oracle"),
    MethodRow("glu", "glu", "glu{density=DENSITY}", least=_GLU_LEAST),
    MethodRow("sparsegpt", "sparsegpt", "sparsegpt{density=DENSITY}", "static"),
    MethodRow("sparsegpt-2:4", "sparsegpt 2:4", "sparsegpt{density=0.5 pattern=2:4}", "static", 0.5, 0.5 + 1e-9),
    MethodRow("sparsegpt-4:8", "sparsegpt 4:8", "sparsegpt{density=0.5 pattern=4:8}", "static", 0.5, 0.5 + 1e-9),
    MethodRow("gate", "gate", "gate{density=DENSITY}"),
    MethodRow("up", "up", "up{density=DENSITY}"),
    MethodRow("predictor", "predictor", "predictor{density=DENSITY}"),
    MethodRow("cats", "cats", "cats{density=DENSITY}"),
    MethodRow("cats+lora", "cats + LoRA", "fuse-lora{adapter=ADAPTER},cats{density=DENSITY}", "lora"),
    MethodRow("dip", "dip", "dip{density=DENSITY}"),
    MethodRow("dip+lora", "dip + LoRA", "fuse-lora{adapter=ADAPTER},dip{density=DENSITY}", "lora"),
    MethodRow("dip+split", "dip, split", "dip{allocation=split density=DENSITY}"),
)
_BEYOND = (
    MethodRow("dip+layers", "dip, by layer", "dip{allocation=layers density=DENSITY}"),
    MethodRow("dip-ca+shared", "dip-ca, shared", "dip-ca{allocation=square density=DENSITY input_share=0.9}"),
)


def choose(methods: str | Sequence[str], densities: Sequence[float], *, lora: bool = False) -> list[MethodRow]:
    """The rows of a comparison.

    Args:
        methods: `all`, `paper` (the rows of its Tables 1, 3 and 4), names of rows, and pipelines; a text is a list
            of these with commas.
        densities: of the blocks, to try pipelines with.
        lora: whether `all` and `paper` have the rows that need a trained adapter.

    Raises:
        UsageError: a name or an option that is not known, or a pipeline that cannot be read.
    """
    wanted = listed(methods) if isinstance(methods, str) else list(methods)
    found: dict[tuple[str, str], MethodRow] = {}
    for item in filter(None, wanted):
        for row in _rows(item, densities, lora):
            found.setdefault((row.label, row.template), row)
    if not found:
        raise UsageError("methods: the list is empty; write all, or names such as dip,cats")
    return list(found.values())


def _rows(item: str, densities: Sequence[float], lora: bool) -> list[MethodRow]:
    if "{" in item or "," in item:
        return [_given(item, densities)]
    if item in ("all", "paper"):
        rows = known() if item == "all" else [e for e in known() if e in _PAPER]
        return [row for row in rows if lora or not row.is_trained]
    named = [row for row in known() if row.name == item]
    if not named and item in PASSES.names():
        raise UsageError(
            f"methods: {item} is no sparsification method; name it in a pipeline: '{item},dip{{density=DENSITY}}'"
        )
    if not named:
        raise UnknownName("method", item, {"all", "paper", *(row.name for row in known())})
    return named


def known() -> list[MethodRow]:
    """Every row that the registered passes allow: the paper's in its order, then the others by name."""
    listed = [row for row in (*_PAPER, *_BEYOND) if _exists(row)]
    names = {row.name for row in listed}
    others = [n for n in PASSES.names() if n not in names and issubclass(PASSES.get(n), SparsityPass)]
    return [*listed, *(MethodRow(n, n, f"{n}{{density=DENSITY}}") for n in others)]


def unaware_form(method: str) -> str | None:
    """Return a method as it is without a cache, `dip` for `dip-ca`; None where it follows none, or is not known here.

    Of a pipeline the last pass counts: `int8,dip` for `int8,dip-ca`.
    """
    before, comma, name = method.rpartition(",")
    kind = PASSES.get(name) if name in PASSES.names() else None
    if kind is None or not kind.cache_aware:
        return None
    for base in kind.__mro__:
        if issubclass(base, Pass) and not base.cache_aware and name_of(base) in PASSES.names():
            return f"{before}{comma}{name_of(base)}"
    return None


def _exists(row: MethodRow) -> bool:
    """Return whether its passes are registered and have its options."""
    try:
        parse_pipeline(row.pipeline(1.0))
    except UnknownName:
        return False
    except UsageError:  # a density that it cannot have, or something it needs besides
        return True
    return True


def _given(item: str, densities: Sequence[float]) -> MethodRow:
    """The row of a pipeline; its label is the pipeline without what is the same in every row."""
    template = write_steps(_at_each_density(read_steps(item)))
    row = MethodRow(item, _name(template), template)
    problem: UsageError | None = None
    for density in (*densities, 1.0):
        try:
            passes = parse_pipeline(row.pipeline(density))
        except UsageError as error:
            problem = problem or error
        else:
            return _checked(row, passes)
    assert problem is not None
    raise problem


def _at_each_density(steps: list[Step]) -> list[Step]:
    """The steps with DENSITY for their methods, if no density is named: then every density that is asked for is meant.

    Where a method follows weights that are pruned for good, it is the method's.
    """
    kinds = [PASSES.get(name.replace("_", "-")) for name, _ in steps]
    takers = [place for place, kind in enumerate(kinds) if "density" in {f.name for f in dataclasses.fields(kind)}]
    if any(_names_density(steps[place][1]) for place in takers):
        return steps
    meant = [place for place in takers if not kinds[place].static] or takers
    return [
        (name, {"density": DENSITY, **options} if place in meant else options)
        for place, (name, options) in enumerate(steps)
    ]


def _names_density(options: Mapping[str, str]) -> bool:
    """Return whether a density is among the options: of all weights, or of one site as in `rho_glu`."""
    return any(option == "density" or option.startswith("rho_") for option in options)


def _checked(row: MethodRow, passes: list[Pass]) -> MethodRow:
    if row.is_trained and all(p.name != LORA for p in passes):
        raise UsageError(f"methods: {row.template}: ADAPTER is for {LORA}{{adapter=ADAPTER}}")
    if any(getattr(p, "scope", "all") != "all" for p in passes):
        raise UsageError(f"methods: {row.template}: scope=decode would score other tokens than the other rows")
    trained: Kind = "lora" if any(p.name == LORA for p in passes) else "method"
    return MethodRow(row.name, row.label, row.template, trained)


def _name(template: str) -> str:
    """Its label, and a known row's where the pipeline is that row's, with or without an adapter."""
    text = _label(template)
    base = text.removesuffix(_TRAINED)
    names = {_label(row.template): row.label for row in known()}
    return names.get(base, base) + (_TRAINED if base != text else "")


def _label(template: str) -> str:
    """The pipeline without DENSITY, and with a note in place of an adapter that is trained for it."""
    steps = read_steps(template)
    kept = [(name, options) for name, options in steps if not (name == LORA and ADAPTER in options.values())]
    shown = [(name, {n: v for n, v in options.items() if (n, v) != ("density", DENSITY)}) for name, options in kept]
    return write_steps(shown) + (_TRAINED if len(kept) < len(steps) else "")


def _has(template: str, word: str) -> bool:
    return any(re.search(_WHERE[word], value) for _, options in read_steps(template) for value in options.values())


def _put(template: str, word: str, value: str) -> str:
    def put(text: str) -> str:
        return re.sub(_WHERE[word], lambda _: value, text)

    return write_steps((name, {n: put(v) for n, v in options.items()}) for name, options in read_steps(template))
