"""`dipc plan`: what to use on a device, and what to expect of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dipc.cli.compare import cells, listed
from dipc.cli.options import SeqLen, TextFile, grouped
from dipc.cli.study import (
    Bits,
    Calibration,
    Cluster,
    Context,
    Jobs,
    MaxTokens,
    Model,
    Step,
    Warmup,
    numbers,
)
from dipc.cli.terminal import Debug, Dtype, Json, Plugins, Quiet, TrustRemoteCode, show, show_json
from dipc.memory.flash import FlashReadOptions


@grouped
def command(
    model: Model,
    hw: Annotated[str, typer.Option("--hw", metavar="DEVICE", help="A device's name (`dipc hw list`) or file.")],
    dram: Annotated[
        str | None, typer.Option(metavar="SIZE", help='DRAM for the model: "4 GB", or "50%" of the dense model.')
    ] = None,
    flash: Annotated[
        str | None, typer.Option(metavar="RATE", help='Flash bandwidth, such as "1 GB/s", instead of the file\'s.')
    ] = None,
    max_ppl_increase: Annotated[
        str, typer.Option(metavar="X", help="Perplexity that may be lost: 0.2, or 5% of the dense model's.")
    ] = "5%",
    methods: Annotated[str, typer.Option(metavar="LIST", help="To choose from.")] = "dip,dip-ca",
    density: Annotated[str, typer.Option(metavar="LIST", help="To begin with.")] = "0.9,0.8,0.7,0.6,0.5,0.4",
    gamma: Annotated[str, typer.Option(metavar="LIST", help="To choose from.")] = "0.1,0.2,0.5",
    step: Step = 0.02,
    policy: Annotated[str, typer.Option(metavar="NAME", help="Eviction policy of the weight cache.")] = "lfu",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Keeps all runs, as `study` does.")
    ] = None,
    text: TextFile = None,
    seq_len: SeqLen = None,
    max_tokens: MaxTokens = 8192,
    warmup: Warmup = None,
    context: Context = None,
    bits_per_weight: Bits = None,
    reads: FlashReadOptions = FlashReadOptions(),
    calibration: Calibration = None,
    jobs: Jobs = 1,
    cluster: Cluster = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Plan for a device (simulated).

    The method, density and gamma to compile with, what to expect beside the dense model, and what would help.
    """
    from dipc.registry import load_installed_plugins
    from dipc.studies.study.workers import check_cluster
    from dipc.text import read_text

    check_cluster(cluster)
    load_installed_plugins()
    given = None if text is None else read_text(text)
    from dipc import api
    from dipc.report.plan import plan_dict, plan_tables

    with cells() as progress:
        found = api.plan(
            model,
            hw,
            dram=dram,
            flash=flash,
            max_ppl_increase=max_ppl_increase,
            methods=listed(methods),
            densities=numbers("--density", density),
            gammas=numbers("--gamma", gamma),
            policy=policy,
            out=out,
            context=context,
            bits_per_weight=bits_per_weight,
            progress=progress,
            step=step,
            text=given,
            seq_len=seq_len,
            max_tokens=max_tokens,
            warmup=warmup,
            reads=reads,
            calibration=calibration,
            jobs=jobs,
            cluster=cluster,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
        )
    if json:
        show_json(plan_dict(found))
    else:
        show(plan_tables(found))
