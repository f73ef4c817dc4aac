"""Every MLP: what became of it, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import RenderableType

from dipc.documents import JsonObject, document
from dipc.memory.lowering import lower
from dipc.quantities import share
from dipc.report.sites import SiteRow, site_rows
from dipc.report.table import stack, table

if TYPE_CHECKING:
    from dipc.ir.program import Program
    from dipc.pipeline.runner import PassLog


@dataclass(frozen=True)
class Verdict:
    """One MLP. `by` is the method that rewrote it, None if none did; `reasons` says why passes left it alone."""

    name: str
    found: bool
    rewritten: bool
    by: str | None
    density: float
    sites: tuple[SiteRow, ...]
    reasons: tuple[str, ...]


def verdicts(program: Program, log: Sequence[PassLog]) -> list[Verdict]:
    """One per MLP that was found, in order, then one per module that looked like an MLP and is none."""
    rows = site_rows(program, lower(program))
    methods = [entry for entry in log if _name(entry) != "outline-glu"]
    judged = []
    for mlp in program.mlps:
        # A method takes the MLP's `glu`; what comes later, such as `pack`, changes how its products are stored.
        by = next((entry.text for entry in methods if mlp.name in entry.matches), None)
        sites = tuple(r for r in rows if r.id.prefix == mlp.site_prefix)
        total = sum(r.units * r.unit_weights for r in sites)
        kept = sum(r.active * r.unit_kept_weights for r in sites)
        reasons = () if by else tuple(_reason(e, mlp.name) for e in methods if _left(e, mlp.name))
        judged.append(Verdict(mlp.name, True, by is not None, by, kept / total if total else 1.0, sites, reasons))
    names = {mlp.name for mlp in program.mlps}
    # What other passes skip, such as an embedding table, never looked like an MLP.
    for entry in (e for e in log if _name(e) == "outline-glu"):
        for skipped in entry.mismatches:
            if skipped.where not in names:
                names.add(skipped.where)
                judged.append(Verdict(skipped.where, False, False, None, 1.0, (), (_reason(entry, skipped.where),)))
    return judged


def explain_dict(program: Program, log: Sequence[PassLog]) -> JsonObject:
    """Model, method and all verdicts."""
    return document("explain", model=program.info, method=program.method, mlps=verdicts(program, log))


def explain_tables(program: Program, log: Sequence[PassLog]) -> list[RenderableType]:
    """A row per MLP, and what the passes would need where an MLP was left alone."""
    judged = verdicts(program, log)
    rewritten = sum(v.rewritten for v in judged)
    found = sum(v.found for v in judged)
    title = f"{program.info.name}: {found} gated MLPs"
    title += f", {rewritten} rewritten by {program.method.name}" if any(v.rewritten for v in judged) else ", all dense"
    rows = [(v.name, _outcome(v), share(v.density), _why(v)) for v in judged]
    return stack(table(title, ("MLP", "outcome", ">density", "active units of each site, or why not"), rows))


def _outcome(verdict: Verdict) -> str:
    if verdict.by:
        return verdict.by.partition("{")[0]
    return "dense" if verdict.found else "not found"


def _why(verdict: Verdict) -> str:
    if verdict.rewritten:
        return ", ".join(f"{s.id.place} {s.active:,}/{s.units:,}" for s in verdict.sites)
    return "; ".join(verdict.reasons) or "no method was asked to rewrite it"


def _name(entry: PassLog) -> str:
    return entry.text.partition("{")[0]


def _left(entry: PassLog, mlp: str) -> bool:
    return any(m.where == mlp for m in entry.mismatches)


def _reason(entry: PassLog, where: str) -> str:
    found = next(m for m in entry.mismatches if m.where == where)
    return f"{_name(entry)}: {found.reason}" + (f" (at %{found.node})" if found.node else "")
