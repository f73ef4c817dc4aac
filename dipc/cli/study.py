"""`dipc study`: methods on a device, over densities, DRAM, flash, policies and gamma."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dipc.cli.compare import cells, listed
from dipc.cli.options import SeqLen, TextFile, grouped
from dipc.cli.terminal import Debug, Dtype, Json, Plugins, Quiet, TrustRemoteCode, show, show_json
from dipc.errors import DipcError, UsageError
from dipc.memory.flash import FlashReadOptions
from dipc.options import MOST_SEED

if TYPE_CHECKING:
    from dipc.studies.study import Study

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="The dense model: demo, a folder, a hub id, a config.json.")
]
Method = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="A pipeline of your own, DENSITY standing for the density; may be repeated."),
]
Densities = Annotated[str, typer.Option("--density", metavar="LIST", help="Kept shares of the MLPs' weights.")]
Gammas = Annotated[str, typer.Option("--gamma", metavar="LIST", help="Penalties of cache-aware methods.")]
Step = Annotated[
    float, typer.Option(metavar="X", help="Grid on which densities between the listed are searched; 0 searches none.")
]
Context = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="Positions of KV cache; by default the context, at most 2048.")
]
Bits = Annotated[float | None, typer.Option(metavar="X", help="Width of a stored weight with its scales (INT4: 4.25).")]
MaxTokens = Annotated[int, typer.Option(metavar="N", min=2, help="Use only so many tokens of the text.")]
Warmup = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="Tokens that fill the caches first; by default a quarter.")
]
Calibration = Annotated[Path | None, typer.Option(metavar="FILE", help="What `dipc calibrate` wrote for this model.")]
Jobs = Annotated[int, typer.Option(metavar="N", min=1, help="Processes that run the model.")]
Cluster = Annotated[str | None, typer.Option(metavar="NAME", help="ray: run the model on a Ray cluster instead.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, max=MOST_SEED, help="Of made-up activity.")]


@grouped
def command(
    model: Model,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Keeps all runs; a rerun goes on.")
    ] = None,
    hw: Annotated[str, typer.Option("--hw", metavar="DEVICE", help="A device's name or file.")] = "a18",
    methods: Annotated[str, typer.Option(metavar="LIST", help="Names; all, paper.")] = "dense,dip,dip-ca",
    method: Method = None,
    density: Densities = "0.9,0.8,0.7,0.6,0.5",
    gamma: Gammas = "0.2",
    policy: Annotated[str, typer.Option(metavar="LIST", help="Eviction policies (`dipc policies list`).")] = "lfu",
    dram: Annotated[str, typer.Option(metavar="LIST", help='Sizes: "2 GB,4 GB", or "50%" of the dense model.')] = "",
    flash: Annotated[str, typer.Option(metavar="LIST", help='Bandwidths: "0.5 GB/s,1 GB/s".')] = "",
    max_ppl_increase: Annotated[
        str, typer.Option(metavar="LIST", help="Find the fastest within 0.2,0.5 of the dense perplexity, or 5% of it.")
    ] = "",
    step: Step = 0.02,
    text: TextFile = None,
    seq_len: SeqLen = None,
    max_tokens: MaxTokens = 8192,
    warmup: Warmup = None,
    context: Context = None,
    bits_per_weight: Bits = None,
    reads: FlashReadOptions = FlashReadOptions(),
    calibration: Calibration = None,
    seed: Seed = 0,
    jobs: Jobs = 1,
    cluster: Cluster = None,
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    plugin: Plugins = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Study methods on a device (simulated).

    Throughput beside perplexity, over densities, DRAM, flash, policies and gamma. The model runs once per density, and
    once per DRAM where its selection follows the cache; everything else is priced from that. If a run fails, the others
    are shown and the exit code is 1.
    """
    from dipc.registry import load_installed_plugins
    from dipc.studies.study.workers import check_cluster
    from dipc.text import read_text

    check_cluster(cluster)
    load_installed_plugins()
    given = None if text is None else read_text(text)
    from dipc import api
    from dipc.report.study import study_dict, study_tables

    with cells() as progress:
        found = api.run_study(
            model,
            [*listed(methods), *(method or ())],
            numbers("--density", density),
            gammas=numbers("--gamma", gamma),
            policies=listed(policy),
            hardware=hw,
            dram=listed(dram),
            flash=listed(flash),
            max_ppl_increase=listed(max_ppl_increase),
            step=step,
            out=out,
            text=given,
            seq_len=seq_len,
            max_tokens=max_tokens,
            warmup=warmup,
            context=context,
            bits_per_weight=bits_per_weight,
            reads=reads,
            calibration=calibration,
            seed=seed,
            jobs=jobs,
            cluster=cluster,
            progress=progress,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
        )
    if json:
        show_json(study_dict(found))
    else:
        show([*study_tables(found), *([] if out is None else ["", f"wrote study.json to {out}"])])
    if found.failures:
        raise DipcError(_failures(found))


def numbers(option: str, text: str) -> tuple[float, ...]:
    """The numbers of a list. UsageError for anything else."""
    try:
        return tuple(float(item) for item in listed(text))
    except ValueError:
        raise UsageError(f"{option} {text!r} is no list of numbers such as 1,0.5,0.25") from None


def _failures(found: Study) -> str:
    first, count = found.failures[0], len(found.failures)
    return (
        f"study: {count} of {len(found.points)} points failed ({first.id}: {first.reason}); the others are kept, a "
        "rerun tries again"
    )
