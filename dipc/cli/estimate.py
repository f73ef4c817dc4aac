"""`dipc estimate`: what a program would do on a device, simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dipc.cli.eval import SeqLen, TextFile
from dipc.cli.target import open_target
from dipc.cli.terminal import (
    MOST_SEED,
    Debug,
    Dtype,
    Json,
    Plugins,
    Quiet,
    Target,
    TrustRemoteCode,
    counting,
    show,
    show_json,
)


def command(
    target: Target,
    hw: Annotated[str, typer.Option("--hw", metavar="DEVICE", help="A device's name (`dipc hw list`) or file.")],
    dram: Annotated[
        str | None, typer.Option(metavar="SIZE", help='DRAM for the model: "4 GB", or "50%" of the dense model.')
    ] = None,
    flash: Annotated[
        str | None, typer.Option(metavar="RATE", help='Flash bandwidth, such as "1 GB/s", instead of the file\'s.')
    ] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="NAME", help="Eviction policy; by default the program's, else lfu.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Positions of KV cache; by default the context, at most 2048."),
    ] = None,
    bits_per_weight: Annotated[
        float | None, typer.Option(metavar="X", help="Width of a stored weight with its scales (INT4: 4.25).")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Replay this activity instead of running the program.")
    ] = None,
    activity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw activity from this model of it (`dipc trace fit`).")
    ] = None,
    text: TextFile = None,
    seq_len: SeqLen = None,
    max_tokens: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens of the text to run on.")] = 2048,
    warmup: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Tokens that fill the cache first; by default a quarter.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=MOST_SEED, help="Of the made-up activity.")] = 0,
    bundling: Annotated[
        str, typer.Option(metavar="NAME", help="What lies together in flash: all of a unit, or each matrix.")
    ] = "unit",
    layout: Annotated[
        str, typer.Option(metavar="NAME", help="Order of units in flash: file, popularity or co-activation.")
    ] = "file",
    over_read: Annotated[
        str | None, typer.Option(metavar="SIZE", help='Join reads that are at most this far apart; "0 B": neighbours.')
    ] = None,
    align: Annotated[
        bool | None, typer.Option("--align/--no-align", help="Read whole pages; by default if the device has pages.")
    ] = None,
    queue_depth: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Reads under way at once; by default the device's most.")
    ] = None,
    overlap: Annotated[
        bool | None,
        typer.Option("--overlap/--no-overlap", help="Flash and DRAM at the same time; by default as the device."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the policy static has the units' popularity from.")
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the last token's reads as a trace for ui.perfetto.dev.")
    ] = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Estimate the speed on a device (simulated).

    Dense beside sparse; every figure follows from the memory traffic of each token.
    """
    from dipc.cache.policy import get_policy
    from dipc.hardware.device import load_device
    from dipc.memory.flash import Reads
    from dipc.registry import load_installed_plugins

    load_installed_plugins()
    device = load_device(hw)
    if policy is not None:
        get_policy(policy)
    reads = Reads.from_texts(bundling, layout, over_read, align, queue_depth, overlap)
    from dipc.memory.synthetic import ActivityModel
    from dipc.memory.trace import Trace
    from dipc.text import read_text

    given = None if text is None else read_text(text)
    replayed = None if trace is None else Trace.load(trace, mapped=True)
    drawn = None if activity is None else ActivityModel.load(activity)
    program = open_target(target, dtype=dtype, trust_remote_code=trust_remote_code).program
    from dipc import api
    from dipc.report.devices import device_file
    from dipc.report.estimate import estimate_dict, estimate_tables, write_timeline

    with counting("windows") as progress:
        found = api.estimate(
            program,
            device,
            dram=dram,
            flash=flash,
            policy=policy,
            context=context,
            bits_per_weight=bits_per_weight,
            trace=replayed,
            activity=drawn,
            text=given,
            seq_len=seq_len,
            max_tokens=max_tokens,
            warmup=warmup,
            seed=seed,
            reads=reads,
            calibration=calibration,
            progress=progress,
        )
    if timeline is not None:
        write_timeline(found, timeline)
    if json:
        show_json(estimate_dict(found, device_file(hw)))
    else:
        show(estimate_tables(found, device_file(hw)))
