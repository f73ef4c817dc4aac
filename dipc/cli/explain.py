"""`dipc explain`: every MLP, rewritten or not, and why."""

from __future__ import annotations

from dipc.cli.target import open_target
from dipc.cli.terminal import Debug, Dtype, Json, Plugins, Quiet, Target, TrustRemoteCode, show, show_json


def command(
    target: Target,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show what became of every MLP, and why.

    For a plain model: which MLPs `outline-glu` finds.
    """
    opened = open_target(target, dtype=dtype, trust_remote_code=trust_remote_code)
    from dipc.report.explain import explain_dict, explain_tables

    if json:
        show_json(explain_dict(opened.program, opened.log))
    else:
        show(explain_tables(opened.program, opened.log))
