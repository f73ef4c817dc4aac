"""`dipc explain`: every MLP, rewritten or not, and why."""

from __future__ import annotations

from dipc.cli.options import ModelOptions, grouped
from dipc.cli.target import open_target
from dipc.cli.terminal import Target, show, show_json


@grouped
def command(
    target: Target,
    common: ModelOptions = ModelOptions(),
) -> None:
    """Show what became of every MLP, and why.

    For a plain model: which MLPs `outline-glu` finds.
    """
    opened = open_target(target, **common.capture)
    from dipc.report.explain import explain_dict, explain_tables

    if common.json:
        show_json(explain_dict(opened.program, opened.log))
    else:
        show(explain_tables(opened.program, opened.log))
